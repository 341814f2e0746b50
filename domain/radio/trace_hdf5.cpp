// HDF5 as traces need it. See trace_hdf5.h; the encodings are those of docs/traces.md, section "Complex
// numbers".
#include "domain/radio/trace_hdf5.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/text.h"

namespace trimtab::radio::hdf5 {
namespace {

// Large enough for the usual chunk (one drop of ten users), so that pieces of a chunk do not inflate it again
// and again.
constexpr size_t kChunkCacheBytes = size_t{64} << 20;
constexpr int64_t kMaxRealValues = int64_t{1} << 29;  // 4 GiB of delays
constexpr H5Z_filter_t kLzfFilter = 32000;

std::recursive_mutex*& current_lock() {
  static auto* mutex = new std::recursive_mutex;  // outlives every static object that still holds a handle
  return mutex;
}

void silence_library() {
  static const bool done = [] {
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    return true;
  }();
  (void)done;
}

// The innermost message of HDF5's error stack: the cause rather than the consequence.
std::string last_cause() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_DOWNWARD,
      [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
        if (error->desc != nullptr && error->desc[0] != '\0') *static_cast<std::string*>(out) = error->desc;
        return 0;
      },
      &text);
  return text.empty() ? "no further detail" : text;
}

std::vector<int64_t> shape_of(hid_t dataset) {
  const Handle space(H5Dget_space(dataset), H5Sclose);
  const int rank = H5Sget_simple_extent_ndims(space.get());
  std::vector<hsize_t> sizes(static_cast<size_t>(std::max(rank, 0)));
  if (rank > 0) H5Sget_simple_extent_dims(space.get(), sizes.data(), nullptr);
  return {sizes.begin(), sizes.end()};
}

bool is_group(const File& file, const std::string& name) {
  const Handle object(H5Oopen(file.id(), name.c_str(), H5P_DEFAULT), H5Oclose);
  return object && H5Iget_type(object.get()) == H5I_GROUP;
}

void refuse_missing_filters(const File& file, const std::string& name, hid_t dataset) {
  const Handle plist(H5Dget_create_plist(dataset), H5Pclose);
  const int count = H5Pget_nfilters(plist.get());
  for (int i = 0; i < count; ++i) {
    unsigned flags = 0, info = 0;
    size_t num_values = 0;
    std::array<char, 64> label{};
    const H5Z_filter_t filter = H5Pget_filter2(plist.get(), static_cast<unsigned>(i), &flags, &num_values,
                                               nullptr, label.size(), label.data(), &info);
    if (filter < 0 || H5Zfilter_avail(filter) > 0) continue;
    const std::string shown = filter == kLzfFilter ? "LZF" : label[0] != '\0' ? label.data() : "unnamed";
    file.fail(
        fmt::format("dataset '{}' is compressed with the {} filter (id {}), which this HDF5 library lacks; "
                    "write it again with gzip (deflate) or without compression",
                    name, shown, filter));
  }
}

Handle open_dataset(const File& file, const std::string& name) {
  if (is_group(file, name)) {
    file.fail(fmt::format("'{}' is a group, not a dataset; store the array itself under that name", name));
  }
  const Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
  H5Pset_chunk_cache(access.get(), H5D_CHUNK_CACHE_NSLOTS_DEFAULT, kChunkCacheBytes, 1.0);
  Handle dataset(H5Dopen2(file.id(), name.c_str(), access.get()), H5Dclose);
  if (!dataset) {
    file.fail(fmt::format(
        "dataset '{}' cannot be opened ({}); it may hold HDF5 2.0's native complex type or use a newer "
        "file format than this library (HDF5 {}.{}) reads: write it again as compound {{r, i}}, h5py's "
        "default, with libver='earliest'",
        name, last_cause(), H5_VERS_MAJOR, H5_VERS_MINOR));
  }
  refuse_missing_filters(file, name, dataset.get());
  return dataset;
}

Handle type_of(const File& file, const std::string& name, hid_t dataset) {
  Handle type(H5Dget_type(dataset), H5Tclose);
  if (!type) file.fail(fmt::format("the type of dataset '{}' cannot be read ({})", name, last_cause()));
  return type;
}

std::string float_text(hid_t type) {
  const std::string order = H5Tget_order(type) == H5T_ORDER_BE ? " big-endian" : "";
  return fmt::format("float{}{}", 8 * H5Tget_size(type), order);
}

// Reads `slab` of a dataset as `memory_type`; the file space is selected, the memory space is dense.
void read_slab(const File& file, const std::string& name, hid_t dataset, const Slab& slab, hid_t memory_type,
               void* out) {
  const Handle space(H5Dget_space(dataset), H5Sclose);
  if (!slab.offset.empty()) {
    H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, slab.offset.data(), nullptr, slab.count.data(), nullptr);
  }
  // Of the same rank as the file's space: HDF5 then walks chunk and memory in step, which is far faster.
  const Handle memory(slab.count.empty()
                          ? H5Screate(H5S_SCALAR)
                          : H5Screate_simple(static_cast<int>(slab.count.size()), slab.count.data(), nullptr),
                      H5Sclose);
  if (H5Dread(dataset, memory_type, memory.get(), space.get(), H5P_DEFAULT, out) < 0) {
    file.fail(fmt::format("dataset '{}' cannot be read ({}); the file is damaged: copy or make it again",
                          name, last_cause()));
  }
}

std::string number_list(const std::vector<int64_t>& numbers, const char* separator) {
  std::string text = "[";
  for (const int64_t n : numbers) text += (text.size() > 1 ? separator : "") + std::to_string(n);
  return text + "]";
}

std::string index_text(const Slab& slab, int64_t flat) {
  std::vector<int64_t> index(slab.count.size());
  for (size_t axis = index.size(); axis-- > 0;) {
    index[axis] = static_cast<int64_t>(slab.offset[axis]) + flat % static_cast<int64_t>(slab.count[axis]);
    flat /= static_cast<int64_t>(slab.count[axis]);
  }
  return number_list(index, ",");
}

[[noreturn]] void fail_not_finite(const File& file, const std::string& name, const Slab& slab, int64_t flat,
                                  double value) {
  file.fail(
      fmt::format("dataset '{}' holds {} at {}; every value must be finite: repair or leave out that drop",
                  name, std::isnan(value) ? "NaN" : "infinity", index_text(slab, flat)));
}

constexpr std::array<std::array<const char*, 2>, 3> kMemberNames = {
    {{"r", "i"}, {"real", "imag"}, {"re", "im"}}};
constexpr std::array<std::array<const char*, 2>, 2> kPairSuffixes = {{{"_re", "_im"}, {"_real", "_imag"}}};

}  // namespace

std::recursive_mutex& lock() { return *current_lock(); }

void renew_lock_in_child() { current_lock() = new std::recursive_mutex; }

Handle& Handle::operator=(Handle&& other) noexcept {
  if (this != &other) {
    reset();
    id_ = other.id_;
    close_ = other.close_;
    other.id_ = -1;
  }
  return *this;
}

void Handle::reset() {
  if (id_ < 0) return;
  const std::lock_guard guard(lock());
  close_(id_);
  id_ = -1;
}

std::string shape_text(const std::vector<int64_t>& shape) { return number_list(shape, ", "); }

int64_t Slab::size() const {
  int64_t product = 1;
  for (const hsize_t n : count) product *= static_cast<int64_t>(n);
  return product;
}

File::File(const std::filesystem::path& path) : path_(path) {
  const std::lock_guard guard(lock());
  silence_library();
  std::error_code error;
  if (!std::filesystem::exists(path, error)) fail("no such file; check the path");
  if (!std::filesystem::is_regular_file(path, error)) fail("this is not a file; name one .h5 file");
  if (std::filesystem::file_size(path, error) == 0) fail("the file is empty; make or copy it again");
  if (H5Fis_hdf5(path.c_str()) <= 0) fail("this is not an HDF5 file; traces are HDF5 files (docs/traces.md)");
  file_ = Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  if (!file_)
    fail(fmt::format("HDF5 cannot open it ({}); it is truncated or damaged: copy or make it again",
                     last_cause()));
}

void File::fail(const std::string& what) const { throw DataError(path_.string() + ": " + what); }

bool File::has(const std::string& name) const {
  return H5Lexists(file_.get(), name.c_str(), H5P_DEFAULT) > 0;
}

std::vector<std::string> File::names() const {
  std::vector<std::string> out;
  H5Literate(
      file_.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr,
      [](hid_t, const char* name, const H5L_info_t*, void* list) -> herr_t {
        static_cast<std::vector<std::string>*>(list)->emplace_back(name);
        return 0;
      },
      &out);
  return out;
}

namespace {

std::optional<std::string> read_word(hid_t attribute, hid_t type) {
  if (H5Tis_variable_str(type) > 0) {
    const Handle memory(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(memory.get(), H5T_VARIABLE);
    H5Tset_cset(memory.get(), H5Tget_cset(type));
    char* text = nullptr;
    if (H5Aread(attribute, memory.get(), static_cast<void*>(&text)) < 0 || text == nullptr)
      return std::nullopt;
    std::string word = text;
    H5free_memory(text);
    return word;
  }
  std::string word(H5Tget_size(type), '\0');
  if (H5Aread(attribute, type, word.data()) < 0) return std::nullopt;
  word.resize(std::strlen(word.c_str()));
  while (!word.empty() && word.back() == ' ') word.pop_back();
  return word;
}

Attribute read_attribute(hid_t object, const std::string& name) {
  Attribute out{name, {}, {}};
  const Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose);
  if (!attribute) return out;
  const Handle space(H5Aget_space(attribute.get()), H5Sclose), type(H5Aget_type(attribute.get()), H5Tclose);
  if (!space || !type || H5Sget_simple_extent_npoints(space.get()) != 1) return out;
  switch (H5Tget_class(type.get())) {
    case H5T_STRING:
      out.word = read_word(attribute.get(), type.get());
      break;
    case H5T_INTEGER:
    case H5T_FLOAT: {
      double value = 0;
      if (H5Aread(attribute.get(), H5T_NATIVE_DOUBLE, &value) >= 0) out.number = value;
      break;
    }
    case H5T_ENUM: {  // h5py's booleans
      const Handle native(H5Tget_native_type(type.get(), H5T_DIR_ASCEND), H5Tclose);
      std::array<unsigned char, 16> bytes{};
      if (native && H5Tget_size(native.get()) <= bytes.size() &&
          H5Aread(attribute.get(), native.get(), bytes.data()) >= 0) {
        out.number = std::any_of(bytes.begin(), bytes.end(), [](unsigned char b) { return b != 0; }) ? 1 : 0;
      }
      break;
    }
    default:
      break;
  }
  return out;
}

}  // namespace

std::vector<Attribute> File::attributes() const {
  std::vector<std::string> found;
  H5Aiterate2(
      file_.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr,
      [](hid_t, const char* name, const H5A_info_t*, void* list) -> herr_t {
        static_cast<std::vector<std::string>*>(list)->emplace_back(name);
        return 0;
      },
      &found);
  std::vector<Attribute> out;
  for (const std::string& name : found) out.push_back(read_attribute(file_.get(), name));
  return out;
}

RealDataset::RealDataset(const File& file, const std::string& name)
    : file_(&file), name_(name), dataset_(open_dataset(file, name)), shape_(shape_of(dataset_.get())) {
  const Handle type = type_of(file, name, dataset_.get());
  const H5T_class_t kind = H5Tget_class(type.get());
  if (kind != H5T_FLOAT && kind != H5T_INTEGER)
    file.fail(fmt::format("dataset '{}' must hold real numbers", name));
}

std::vector<double> RealDataset::read(const Slab& slab) const {
  if (slab.size() > kMaxRealValues) {
    file_->fail(fmt::format("dataset '{}' would need {:.1f} GiB at once; arrays this large are not read",
                            name_, 8.0 * static_cast<double>(slab.size()) / (1 << 30)));
  }
  std::vector<double> out(static_cast<size_t>(slab.size()));
  if (out.empty()) return out;
  read_slab(*file_, name_, dataset_.get(), slab, H5T_NATIVE_DOUBLE, out.data());
  for (size_t i = 0; i < out.size(); ++i) {
    if (!std::isfinite(out[i])) fail_not_finite(*file_, name_, slab, static_cast<int64_t>(i), out[i]);
  }
  return out;
}

std::vector<double> RealDataset::read_all() const {
  Slab slab;
  for (const int64_t n : shape_) {
    slab.offset.push_back(0);
    slab.count.push_back(static_cast<hsize_t>(n));
  }
  return read(slab);
}

bool ComplexDataset::present(const File& file, const std::string& name) {
  if (file.has(name)) return true;
  return std::any_of(kPairSuffixes.begin(), kPairSuffixes.end(),
                     [&](const auto& pair) { return file.has(name + pair[0]) || file.has(name + pair[1]); });
}

ComplexDataset::ComplexDataset(const File& file, const std::string& name) : file_(&file), name_(name) {
  if (!file.has(name)) {
    for (const auto& [re, im] : kPairSuffixes) {
      if (!file.has(name + re) && !file.has(name + im)) continue;
      open_pair(name + re, name + im);
      return;
    }
    file.fail(fmt::format("there is no dataset '{}'", name));
  }
  dataset_ = open_dataset(file, name);
  shape_ = shape_of(dataset_.get());
  const Handle type = type_of(file, name, dataset_.get());
  switch (H5Tget_class(type.get())) {
    case H5T_COMPOUND:
      open_compound(type);
      break;
    case H5T_FLOAT:
      open_trailing_axis(type);
      break;
    default:
      file.fail(fmt::format(
          "dataset '{}' holds neither complex nor floating-point numbers; write it as complex64 (compound "
          "{{r, i}})",
          name));
  }
}

void ComplexDataset::open_compound(const Handle& type) {
  for (const auto& [re, im] : kMemberNames) {
    const int r = H5Tget_member_index(type.get(), re), i = H5Tget_member_index(type.get(), im);
    if (r < 0 || i < 0) continue;
    if (H5Tget_member_class(type.get(), static_cast<unsigned>(r)) != H5T_FLOAT ||
        H5Tget_member_class(type.get(), static_cast<unsigned>(i)) != H5T_FLOAT) {
      break;
    }
    memory_type_ = Handle(H5Tcreate(H5T_COMPOUND, 2 * sizeof(float)), H5Tclose);
    H5Tinsert(memory_type_.get(), re, 0, H5T_NATIVE_FLOAT);
    H5Tinsert(memory_type_.get(), im, sizeof(float), H5T_NATIVE_FLOAT);
    const Handle member(H5Tget_member_type(type.get(), static_cast<unsigned>(r)), H5Tclose);
    encoding_ = Encoding::kCompound;
    description_ = fmt::format("compound {{{},{}}} {}", re, im, float_text(member.get()));
    return;
  }
  std::vector<std::string> members;
  for (int m = 0; m < H5Tget_nmembers(type.get()); ++m) {
    char* label = H5Tget_member_name(type.get(), static_cast<unsigned>(m));
    members.emplace_back(label);
    H5free_memory(label);
  }
  file_->fail(fmt::format(
      "dataset '{}' is compound with members {{{}}}, which is no complex number known here; use floating-"
      "point members {{r, i}}, {{real, imag}} or {{re, im}}",
      name_, join(members, ", ")));
}

void ComplexDataset::open_trailing_axis(const Handle& type) {
  const Attribute flag = read_attribute(dataset_.get(), "complex_axis");
  const bool flagged =
      flag.number && (*flag.number == -1 || *flag.number == static_cast<double>(shape_.size()) - 1);
  if (!flagged || shape_.empty() || shape_.back() != 2) {
    file_->fail(fmt::format(
        "dataset '{}' of shape {} is real; write complex numbers (compound {{r, i}}), or a last axis of "
        "2 (re, im) with the dataset's attribute complex_axis = -1",
        name_, shape_text(shape_)));
  }
  shape_.pop_back();
  encoding_ = Encoding::kTrailingAxis;
  description_ = "trailing axis of 2, " + float_text(type.get());
}

void ComplexDataset::open_pair(const std::string& re_name, const std::string& im_name) {
  for (const std::string& part : {re_name, im_name}) {
    if (!file_->has(part)) {
      file_->fail(
          fmt::format("dataset '{}' is missing: real and imaginary parts come as the pair '{}' and '{}'",
                      part, re_name, im_name));
    }
  }
  re_name_ = re_name;
  im_name_ = im_name;
  dataset_ = open_dataset(*file_, re_name);
  dataset_im_ = open_dataset(*file_, im_name);
  const Handle type = type_of(*file_, re_name, dataset_.get()),
               type_im = type_of(*file_, im_name, dataset_im_.get());
  if (H5Tget_class(type.get()) != H5T_FLOAT || H5Tget_class(type_im.get()) != H5T_FLOAT) {
    file_->fail(fmt::format("datasets '{}' and '{}' must hold floating-point numbers", re_name, im_name));
  }
  shape_ = shape_of(dataset_.get());
  if (shape_of(dataset_im_.get()) != shape_) {
    file_->fail(fmt::format("dataset '{}' has shape {}, '{}' has {}; they must agree", re_name,
                            shape_text(shape_), im_name, shape_text(shape_of(dataset_im_.get()))));
  }
  encoding_ = Encoding::kPaired;
  description_ = fmt::format("paired {} and {}, {}", re_name, im_name, float_text(type.get()));
}

void ComplexDataset::read(const Slab& slab, std::vector<float>& out) const {
  const auto size = static_cast<size_t>(slab.size());
  out.resize(2 * size);
  if (size == 0) return;
  if (encoding_ == Encoding::kCompound) {
    read_slab(*file_, name_, dataset_.get(), slab, memory_type_.get(), out.data());
  } else if (encoding_ == Encoding::kTrailingAxis) {
    Slab wide = slab;
    wide.offset.push_back(0);
    wide.count.push_back(2);
    read_slab(*file_, name_, dataset_.get(), wide, H5T_NATIVE_FLOAT, out.data());
  } else {
    std::vector<float> re(size), im(size);
    read_slab(*file_, re_name_, dataset_.get(), slab, H5T_NATIVE_FLOAT, re.data());
    read_slab(*file_, im_name_, dataset_im_.get(), slab, H5T_NATIVE_FLOAT, im.data());
    for (size_t i = 0; i < size; ++i) {
      out[2 * i] = re[i];
      out[2 * i + 1] = im[i];
    }
  }
  refuse_not_finite(slab, out);
}

void ComplexDataset::refuse_not_finite(const Slab& slab, const std::vector<float>& values) const {
  // All ones in the exponent: NaN or infinity. Integers, so that the compiler may vectorise the search.
  constexpr uint32_t kExponent = 0x7f800000u;
  uint32_t any = 0;
  for (const float v : values) any |= (std::bit_cast<uint32_t>(v) & kExponent) == kExponent;
  if (any == 0) return;
  const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  const auto flat = (bad - values.begin()) / 2;
  const std::string& name = encoding_ != Encoding::kPaired    ? name_
                            : (bad - values.begin()) % 2 == 0 ? re_name_
                                                              : im_name_;
  fail_not_finite(*file_, name, slab, flat, *bad);
}

}  // namespace trimtab::radio::hdf5
