// How many bit planes a code may have.
#pragma once

namespace bitinfer {

inline constexpr int kMostPlanes = 4;

}  // namespace bitinfer
