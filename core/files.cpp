#include "core/files.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "core/disk.h"
#include "core/error.h"
#include "core/sha256.h"

namespace trimtab {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 20;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int close() { return disk::close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

[[noreturn]] void read_failed(const std::filesystem::path& file, int error) {
  throw DataError(fmt::format("{}: cannot read it: {}", file.string(), std::strerror(error)));
}

// Calls `use` on the contents, piece by piece.
void for_each_piece(const std::filesystem::path& file, const std::function<void(std::string_view)>& use) {
  Descriptor fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) read_failed(file, errno);
  std::vector<char> piece(kPieceBytes);
  for (;;) {
    const ssize_t size = ::read(fd.get(), piece.data(), piece.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) read_failed(file, errno);
    if (size == 0) return;
    use({piece.data(), static_cast<size_t>(size)});
  }
}

std::string hex(const XXH128_hash_t& hash) { return fmt::format("{:016x}{:016x}", hash.high64, hash.low64); }

}  // namespace

void flush_folder(const std::filesystem::path& folder) {
  Descriptor fd(disk::open(folder, O_RDONLY | O_DIRECTORY));
  disk::must(fd.get() < 0 ? -1 : disk::fsync(fd.get()), folder);
}

void write_file_flushed(const std::filesystem::path& file, std::string_view contents) {
  Descriptor fd(disk::open(file, O_WRONLY | O_CREAT | O_TRUNC));
  disk::must(fd.get() < 0 ? -1 : 0, file);
  while (!contents.empty()) {
    const ssize_t written = disk::write(fd.get(), contents);
    if (written < 0 && errno == EINTR) continue;
    disk::must(written < 0 ? -1 : 0, file);
    contents.remove_prefix(static_cast<size_t>(written));
  }
  disk::must(disk::fsync(fd.get()), file);
  disk::must(fd.close(), file);
}

void write_file_atomically(const std::filesystem::path& file, std::string_view contents) {
  std::filesystem::path beside = file;
  beside += ".tmp";
  try {
    write_file_flushed(beside, contents);
    disk::must(disk::rename(beside, file), file);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(beside, ignored);
    throw;
  }
  flush_folder(file.has_parent_path() ? file.parent_path() : std::filesystem::path("."));
}

std::string read_file(const std::filesystem::path& file) {
  std::string out;
  for_each_piece(file, [&](std::string_view piece) { out += piece; });
  return out;
}

std::string hash_bytes(std::string_view bytes) { return hex(XXH3_128bits(bytes.data(), bytes.size())); }

std::string hash_file(const std::filesystem::path& file) {
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(),
                                                                              XXH3_freeState);
  TT_CHECK(state != nullptr);
  XXH3_128bits_reset(state.get());
  for_each_piece(
      file, [&](std::string_view piece) { XXH3_128bits_update(state.get(), piece.data(), piece.size()); });
  return hex(XXH3_128bits_digest(state.get()));
}

std::string sha256_file(const std::filesystem::path& file) {
  Sha256 hash;
  for_each_piece(file, [&](std::string_view piece) { hash.update(piece); });
  return hash.hex_digest();
}

}  // namespace trimtab
