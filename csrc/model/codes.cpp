#include "model/codes.h"

#include <algorithm>

#include "base/error.h"

namespace bitinfer {
namespace {

Codes counted(int32_t c0, int planes) {
  Codes codes{c0, planes, {}};
  for (int j = 0; j < planes; ++j) codes.c[j] = 1 << j;
  return codes;
}

}  // namespace

int32_t Codes::sum() const {
  int32_t sum = 0;
  for (int j = 0; j < planes; ++j) sum += c[j];
  return sum;
}

int32_t Codes::magnitude() const { return std::max(-low(), high()); }

Codes signs() { return {-1, 1, {2}}; }
Codes signs_with_zeros() { return {-1, 2, {1, 1}}; }
Codes unsigned_codes(int bits) { return counted(0, bits); }
Codes signed_codes(int bits) { return counted(-(1 << (bits - 1)), bits); }

Codes PointCodes::codes() const {
  if (are_signs()) return signs();
  return is_signed ? signed_codes(bits) : unsigned_codes(bits);
}

PointCodes parse_codes(const std::string& point, const std::string& name) {
  for (int bits = 1; bits <= kMostPlanes; ++bits) {
    const std::string digits = std::to_string(bits);
    if (name == "signed-" + digits) return {bits, true, false};
    if (name == "unsigned-" + digits) return {bits, false, false};
    if (bits > 1 && name == "unsigned-" + digits + "-from-min") return {bits, false, true};
  }
  throw FormatError("codes of '" + point + "': found '" + name +
                    "', expected signed-N, unsigned-N or unsigned-N-from-min with N from 1 to " +
                    std::to_string(kMostPlanes) + " (from-min: from 2)");
}

}  // namespace bitinfer
