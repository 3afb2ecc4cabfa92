// What the bits of a code mean: value = c0 + sum_j c_j plane_j with plane_j in {0, 1}. Every kind
// of code is a row of this table; nothing else tells them apart.
//
//   | codes              |        c0 | c_j            |
//   | signs              |        -1 | 2              |  x > 0
//   | signs with zeros   |        -1 | 1, 1           |  x > 0, x >= 0
//   | unsigned, n bits   |         0 | 1, 2 .. 2^(n-1)|
//   | signed, n >= 2     | -2^(n-1)  | 1, 2 .. 2^(n-1)|
#pragma once

#include <cstdint>
#include <string>

#include "base/planes.h"

namespace bitinfer {

struct Codes {
  int32_t c0;
  int planes;
  int32_t c[kMostPlanes];

  int32_t sum() const;  // of all c_j
  int32_t low() const { return c0; }
  int32_t high() const { return c0 + sum(); }
  int32_t magnitude() const;  // of the largest code
};

Codes signs();
Codes signs_with_zeros();
Codes unsigned_codes(int bits);
Codes signed_codes(int bits);  // bits >= 2

// The codes of a point as a model file names them: "signed-1", "unsigned-2", "unsigned-4-from-min".
struct PointCodes {
  int bits;
  bool is_signed;
  // Codes begin at the minimum of the point's values over the sequence instead of 0.
  bool from_min;

  bool are_signs() const { return is_signed && bits == 1; }
  // For signs those without zeros.
  Codes codes() const;
  int boundaries() const { return are_signs() ? 2 : (1 << bits) - 1; }
};

// FormatError names the point, what was found and what was expected.
PointCodes parse_codes(const std::string& point, const std::string& name);

}  // namespace bitinfer
