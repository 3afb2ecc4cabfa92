// Owned memory on cache-line boundaries that only ever grows: a workspace asks for what a call
// needs and allocates nothing once it has seen its largest call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

namespace bitinfer {

template <class T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  static constexpr std::align_val_t kAlignment{64};

  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t count) { reserve(count); }
  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer() { ::operator delete(data_, kAlignment); }

  // Room for `count` values; growing clears everything, not growing keeps it.
  void reserve(size_t count) {
    if (count <= capacity_) return;
    void* fresh = ::operator new(count * sizeof(T), kAlignment);
    std::memset(fresh, 0, count * sizeof(T));
    ::operator delete(data_, kAlignment);
    data_ = static_cast<T*>(fresh);
    capacity_ = count;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  size_t bytes() const { return capacity_ * sizeof(T); }

 private:
  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(capacity_, other.capacity_);
  }

  T* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace bitinfer
