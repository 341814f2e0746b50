// Archive: one function per type lists its members, and serves both saving and loading of plain state.
//
//   struct State { int32_t slot; std::vector<float> average; void serialise(Archive& a) { a(slot), a(average); } };
#pragma once

#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "core/error.h"

namespace trimtab {

class Archive {
 public:
  static Archive writer() { return Archive(); }
  static Archive reader(std::string bytes) {
    Archive archive;
    archive.reading_ = true;
    archive.bytes_ = std::move(bytes);
    return archive;
  }
  bool reading() const { return reading_; }
  const std::string& bytes() const { return bytes_; }
  bool at_end() const { return position_ == bytes_.size(); }

  template <class T>
  void operator()(T& value) {
    if constexpr (requires { value.serialise(*this); }) {
      value.serialise(*this);
    } else {
      static_assert(std::is_trivially_copyable_v<T>, "give this type a serialise(Archive&)");
      raw(&value, sizeof(T));
    }
  }
  template <class T>
  void operator()(std::vector<T>& values) {
    uint64_t size = values.size();
    raw(&size, sizeof(size));
    if (reading_) {
      if (size > bytes_.size() - position_) throw CheckpointError("saved state is cut short or damaged");
      values.resize(size);
    }
    if constexpr (std::is_trivially_copyable_v<T> && !requires(T& t) { t.serialise(*this); }) {
      raw(values.data(), size * sizeof(T));
    } else {
      for (T& value : values) (*this)(value);
    }
  }

 private:
  void raw(void* data, size_t size) {
    if (!reading_) {
      bytes_.append(static_cast<const char*>(data), size);
      return;
    }
    if (size > bytes_.size() - position_) throw CheckpointError("saved state is cut short or damaged");
    if (size > 0) std::memcpy(data, bytes_.data() + position_, size);
    position_ += size;
  }

  bool reading_ = false;
  std::string bytes_;
  size_t position_ = 0;
};

}  // namespace trimtab
