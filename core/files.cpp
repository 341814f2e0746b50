#include "core/files.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "core/error.h"

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
  int close() { return ::close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

[[noreturn]] void write_failed(const std::filesystem::path& file, int error) {
  const char* cure =
      error == ENOSPC || error == EDQUOT || error == EFBIG ? "; free some space and resume the run" : "";
  throw CheckpointError(fmt::format("{}: cannot write it: {}{}", file.string(), std::strerror(error), cure));
}

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
  Descriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0 || ::fsync(fd.get()) != 0) write_failed(folder, errno);
}

void write_file_flushed(const std::filesystem::path& file, std::string_view contents) {
  Descriptor fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (fd.get() < 0) write_failed(file, errno);
  while (!contents.empty()) {
    const ssize_t written = ::write(fd.get(), contents.data(), contents.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) write_failed(file, errno);
    contents.remove_prefix(static_cast<size_t>(written));
  }
  if (::fsync(fd.get()) != 0) write_failed(file, errno);
  if (fd.close() != 0) write_failed(file, errno);
}

void write_file_atomically(const std::filesystem::path& file, std::string_view contents) {
  std::filesystem::path beside = file;
  beside += ".tmp";
  try {
    write_file_flushed(beside, contents);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(beside, ignored);
    throw;
  }
  if (::rename(beside.c_str(), file.c_str()) != 0) {
    const int error = errno;
    ::unlink(beside.c_str());
    write_failed(file, error);
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

namespace {

// SHA-256 (FIPS 180-4, sections 4.1.2, 5.3.3 and 6.2).
class Sha256 {
 public:
  void update(std::string_view bytes) {
    length_ += bytes.size();
    while (!bytes.empty()) {
      const size_t taken = std::min(bytes.size(), block_.size() - filled_);
      std::memcpy(block_.data() + filled_, bytes.data(), taken);
      filled_ += taken;
      bytes.remove_prefix(taken);
      if (filled_ == block_.size()) compress();
    }
  }

  std::string hex_digest() {
    const uint64_t bits = length_ * 8;
    update(std::string_view("\x80", 1));
    while (filled_ != block_.size() - 8) update(std::string_view("\0", 1));
    std::array<char, 8> size;
    for (int i = 0; i < 8; ++i) size[i] = static_cast<char>(bits >> (56 - 8 * i));
    update({size.data(), size.size()});
    std::string out;
    for (const uint32_t word : state_) out += fmt::format("{:08x}", word);
    return out;
  }

 private:
  void compress();

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> block_{};
  size_t filled_ = 0;
  uint64_t length_ = 0;
};

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
constexpr std::array<uint32_t, 64> kSha256Words = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

void Sha256::compress() {
  std::array<uint32_t, 64> w;
  for (int i = 0; i < 16; ++i) {
    w[i] = uint32_t{block_[4 * i]} << 24 | uint32_t{block_[4 * i + 1]} << 16 |
           uint32_t{block_[4 * i + 2]} << 8 | block_[4 * i + 3];
  }
  for (int i = 16; i < 64; ++i) {
    const uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
    const uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (int i = 0; i < 64; ++i) {
    const uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
    const uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kSha256Words[i] + w[i];
    const uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
    const uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
  }
  const std::array<uint32_t, 8> mixed = {a, b, c, d, e, f, g, h};
  for (int i = 0; i < 8; ++i) state_[i] += mixed[i];
  filled_ = 0;
}

}  // namespace

std::string sha256_file(const std::filesystem::path& file) {
  Sha256 hash;
  for_each_piece(file, [&](std::string_view piece) { hash.update(piece); });
  return hash.hex_digest();
}

}  // namespace trimtab
