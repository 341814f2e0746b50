#include "core/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "core/disk.h"
#include "core/error.h"

namespace trimtab {

AppendFile::AppendFile(std::filesystem::path path) : path_(std::move(path)) {
  fd_ = disk::open(path_, O_WRONLY | O_CREAT | O_APPEND);
  if (fd_ < 0) fail();
}

AppendFile::~AppendFile() { ::close(fd_); }

void AppendFile::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = disk::write(fd_, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail();
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

void AppendFile::flush() {
  if (disk::fsync(fd_) != 0) fail();
}

void AppendFile::fail() const { throw RunError(disk::problem(path_, errno)); }

}  // namespace trimtab
