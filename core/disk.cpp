#include "core/disk.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "core/error.h"

namespace trimtab::disk {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVariable = "TRIMTAB_FAULT";

Fault parse(const std::string& text) {
  static const std::map<std::string, FaultKind> kKinds = {{"kill", FaultKind::kKill},
                                                          {"kill_after", FaultKind::kKillAfter},
                                                          {"short_write", FaultKind::kShortWrite},
                                                          {"enospc", FaultKind::kNoSpace},
                                                          {"eio", FaultKind::kIoError}};
  Fault out;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out.point);
  const auto kind = *end == ':' ? kKinds.find(end + 1) : kKinds.end();
  if (error != std::errc() || out.point < 1 || kind == kKinds.end())
    throw ConfigError(fmt::format("{}={}: expected count, or N:KIND: a call from 1 and one of kill, kill_after, short_write, enospc, eio",
                                  kVariable, text));
  out.kind = kind->second;
  return out;
}

struct State {
  Fault fault;
  std::atomic<int64_t> calls{0};
  std::atomic<bool> full{false};
  bool print_count = false;

  State() {
    if (const char* text = std::getenv(kVariable)) read(text);
  }
  ~State() {
    if (print_count) std::fprintf(stderr, "%s: %lld calls\n", kVariable, static_cast<long long>(calls.load()));
  }
  void read(const std::string& text) {
    print_count = text == "count";
    fault = print_count ? Fault{} : parse(text);
  }
};

State& state() {
  static State made;
  return made;
}

enum class Space { kNone, kTakes };

// Counts one call and lets the fault strike; the call gets what strikes it.
template <class Call>
auto counted(Space space, const Call& call) -> decltype(call(FaultKind::kNone)) {
  State& s = state();
  const FaultKind kind = ++s.calls == s.fault.point ? s.fault.kind : FaultKind::kNone;
  if (kind == FaultKind::kKill) ::raise(SIGKILL);
  if (s.full && space == Space::kTakes) {
    errno = ENOSPC;
    return -1;
  }
  if (kind == FaultKind::kNoSpace) s.full = true;
  const auto result = call(kind);
  if (kind == FaultKind::kKillAfter) ::raise(SIGKILL);
  return result;
}

// A call that is done or fails as a whole.
template <class Call>
int whole(Space space, const Call& call) {
  return counted(space, [&](FaultKind kind) {
    const bool full = kind == FaultKind::kNoSpace && space == Space::kTakes;
    if (!full && kind != FaultKind::kIoError) return static_cast<int>(call());
    errno = full ? ENOSPC : EIO;
    return -1;
  });
}

}  // namespace

void set_fault(Fault fault) {
  state().fault = fault;
  state().full = false;
  state().calls = 0;
}

void set_fault(const std::string& text) {
  set_fault(Fault{});
  state().read(text);
}

int64_t calls() { return state().calls; }

int open(const fs::path& file, int flags) {
  return whole((flags & O_CREAT) != 0 ? Space::kTakes : Space::kNone,
               [&] { return ::open(file.c_str(), flags | O_CLOEXEC, 0644); });
}

ssize_t write(int fd, std::string_view bytes) {
  return counted(Space::kTakes, [&](FaultKind kind) -> ssize_t {
    if (kind == FaultKind::kIoError) {
      errno = EIO;
      return -1;
    }
    const bool half = kind == FaultKind::kShortWrite || kind == FaultKind::kNoSpace;
    return ::write(fd, bytes.data(), half ? (bytes.size() + 1) / 2 : bytes.size());
  });
}

int fsync(int fd) {
  return whole(Space::kNone, [&] { return ::fsync(fd); });
}

int close(int fd) {
  return counted(Space::kNone, [&](FaultKind kind) {
    const int result = ::close(fd);
    if (kind != FaultKind::kIoError) return result;
    errno = EIO;
    return -1;
  });
}

int rename(const fs::path& from, const fs::path& to) {
  return whole(Space::kTakes, [&] { return ::rename(from.c_str(), to.c_str()); });
}

int exchange(const fs::path& a, const fs::path& b) {
  return whole(Space::kTakes, [&] { return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE); });
}

int remove(const fs::path& path) {
  return whole(Space::kNone, [&] { return ::remove(path.c_str()); });
}

int remove_tree(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (status.type() == fs::file_type::not_found) return 0;
  if (status.type() == fs::file_type::directory) {
    std::vector<fs::path> inside;
    for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) inside.push_back(it->path());
    for (const fs::path& entry : inside)
      if (remove_tree(entry) != 0) return -1;
  }
  if (error) {
    errno = error.value();
    return -1;
  }
  return disk::remove(path);
}

int make_folder(const fs::path& folder) {
  return whole(Space::kTakes, [&] { return ::mkdir(folder.c_str(), 0777); });
}

int make_folders(const fs::path& folder) {
  std::error_code ignored;
  if (folder.empty() || fs::is_directory(folder, ignored)) return 0;
  if (make_folders(folder.parent_path()) != 0) return -1;
  if (make_folder(folder) == 0) return 0;
  return errno == EEXIST && fs::is_directory(folder, ignored) ? 0 : -1;
}

int make_link(const std::string& target, const fs::path& link) {
  return whole(Space::kTakes, [&] { return ::symlink(target.c_str(), link.c_str()); });
}

const char* cure(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return "; free some space and resume the run";
    case EROFS:
    case EACCES:
    case EPERM: return "; make it writable and resume the run";
    case EIO: return "; the disk fails: check it, then resume the run";
    default: return "";
  }
}

std::string problem(const fs::path& file, int error) {
  return fmt::format("{}: cannot write it: {}{}", file.string(), std::strerror(error), cure(error));
}

void must(int result, const fs::path& file) {
  if (result != 0) throw CheckpointError(problem(file, errno));
}

}  // namespace trimtab::disk
