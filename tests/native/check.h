// The whole test framework: TEST registers a function, CHECK reports and goes on.
#pragma once

#include <sstream>
#include <string>

namespace bitinfer::test {

using Function = void (*)();
bool add_test(const char* name, Function function);
void fail(const char* file, int line, const std::string& message);

template <class A, class B>
void check_equal(const char* file, int line, const char* text, const A& a, const B& b) {
  if (a == b) return;
  std::ostringstream message;
  message << text << ": " << a << " != " << b;
  fail(file, line, message.str());
}

}  // namespace bitinfer::test

#define TEST(name)                                                                                \
  static void test_##name();                                                                      \
  [[maybe_unused]] static const bool added_##name = bitinfer::test::add_test(#name, test_##name); \
  static void test_##name()

#define CHECK(condition)                                                    \
  do {                                                                      \
    if (!(condition)) bitinfer::test::fail(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_EQUAL(a, b) bitinfer::test::check_equal(__FILE__, __LINE__, #a " == " #b, a, b)

// The statement throws this type, and its message contains this text.
#define CHECK_THROWS(statement, Error, text)                                    \
  do {                                                                          \
    std::string thrown = "nothing";                                             \
    try {                                                                       \
      statement;                                                                \
    } catch (const Error& error) {                                              \
      thrown = error.what();                                                    \
    }                                                                           \
    if (thrown.find(text) == std::string::npos)                                 \
      bitinfer::test::fail(__FILE__, __LINE__, #statement " threw: " + thrown); \
  } while (false)
