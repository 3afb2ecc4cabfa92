// Runs all tests, or those whose names contain the first argument, or with a minus before it those
// whose names do not.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "check.h"

namespace bitinfer::test {
namespace {

struct Test {
  std::string name;
  Function function;
};

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

int g_failures = 0;

}  // namespace

bool add_test(const char* name, Function function) {
  tests().push_back({name, function});
  return true;
}

void fail(const char* file, int line, const std::string& message) {
  ++g_failures;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, message.c_str());
}

}  // namespace bitinfer::test

int main(int argc, char** argv) {
  using namespace bitinfer::test;
  const std::string filter = argc > 1 ? argv[1] : "";
  const bool exclude = filter.rfind('-', 0) == 0;
  const std::string text = filter.substr(exclude ? 1 : 0);
  int passed = 0;
  int failed = 0;
  for (const Test& test : tests()) {
    if ((test.name.find(text) != std::string::npos) == exclude) continue;
    const int before = g_failures;
    try {
      test.function();
    } catch (const std::exception& error) {
      fail(test.name.c_str(), 0, std::string("threw ") + error.what());
    }
    const bool ok = g_failures == before;
    ++(ok ? passed : failed);
    if (!ok) std::fprintf(stderr, "FAILED %s\n", test.name.c_str());
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed > 0 || passed == 0 ? 1 : 0;
}
