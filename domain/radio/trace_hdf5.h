// HDF5 as traces need it: handles that close themselves, one lock around a library that is not thread-safe,
// complex numbers in every encoding found in the wild (docs/traces.md), hyperslab reads, and errors that name
// file and dataset.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"

namespace trimtab::radio::hdf5 {

// Debian's serial HDF5 may be entered by one thread at a time. Recursive, since handles close while it is
// held.
std::recursive_mutex& lock();
// In a forked child, whose only thread is a copy of one that held the lock: a new lock, since the copied one
// has no owner.
void renew_lock_in_child();

// An identifier and the function that closes it.
class Handle {
 public:
  Handle() = default;
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(other.id_), close_(other.close_) { other.id_ = -1; }
  Handle& operator=(Handle&& other) noexcept;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { reset(); }
  void reset();
  hid_t get() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

// A number or a word attached to the root group.
struct Attribute {
  std::string name;
  std::optional<double> number;
  std::optional<std::string> word;
};

// How one dataset (or a pair of datasets) holds complex numbers.
enum class Encoding { kCompound, kPaired, kTrailingAxis };

class File {
 public:
  explicit File(const std::filesystem::path& path);  // DataError: absent, not HDF5, truncated, ...
  const std::filesystem::path& path() const { return path_; }
  hid_t id() const { return file_.get(); }
  bool has(const std::string& name) const;
  std::vector<std::string> names() const;     // of the root group
  std::vector<Attribute> attributes() const;  // scalar (or one-element) ones of the root group
  // Throws DataError "FILE: WHAT".
  [[noreturn]] void fail(const std::string& what) const;

 private:
  std::filesystem::path path_;
  Handle file_;
};

// A block of a dataset: one offset and count per axis.
struct Slab {
  std::vector<hsize_t> offset, count;
  int64_t size() const;
};

// A dataset of real numbers (tau, time, drop).
class RealDataset {
 public:
  RealDataset(const File& file, const std::string& name);
  const std::string& name() const { return name_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  std::vector<double> read(const Slab& slab) const;
  std::vector<double> read_all() const;

 private:
  const File* file_;
  std::string name_;
  Handle dataset_;
  std::vector<int64_t> shape_;
};

// A dataset of complex numbers in any encoding; read as pairs (re, im) of float.
class ComplexDataset {
 public:
  // `name` is "a" or "h_freq"; paired datasets are looked for under name_re, name_real, ...
  static bool present(const File& file, const std::string& name);
  ComplexDataset(const File& file, const std::string& name);
  const std::string& name() const { return name_; }
  const std::vector<int64_t>& shape() const { return shape_; }  // without the trailing axis of 2
  Encoding encoding() const { return encoding_; }
  const std::string& description() const { return description_; }
  // out: 2 * slab.size() floats. DataError when the data is damaged or not finite (the element's index is
  // named).
  void read(const Slab& slab, std::vector<float>& out) const;

 private:
  void open_compound(const Handle& type);
  void open_trailing_axis(const Handle& type);
  void open_pair(const std::string& re_name, const std::string& im_name);
  void refuse_not_finite(const Slab& slab, const std::vector<float>& values) const;

  const File* file_;
  std::string name_;
  Encoding encoding_ = Encoding::kCompound;
  std::string description_, re_name_, im_name_;
  Handle dataset_, dataset_im_, memory_type_;
  std::vector<int64_t> shape_;
};

// "[24, 10, 1, 1, 1, 23, 1000]"
std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace trimtab::radio::hdf5
