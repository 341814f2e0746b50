#include "core/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <map>
#include <mutex>
#include <optional>

#include "core/disk.h"
#include "core/error.h"
#include "core/files.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigName = "config.yaml";
constexpr const char* kFinishedName = "finished";
constexpr const char* kLockName = ".lock";
constexpr const char* kProvenanceName = "provenance.json";
constexpr size_t kStampLength = sizeof("20260101-120000") - 1;

std::string stamp(std::time_t time) {
  std::tm local{};
  localtime_r(&time, &local);
  char text[kStampLength + 1];
  TT_CHECK_EQ(std::strftime(text, sizeof(text), "%Y%m%d-%H%M%S", &local), kStampLength);
  return text;
}

std::string utc(std::time_t time) {
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[sizeof("2026-01-01T12:00:00Z")];
  TT_CHECK_EQ(std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts), sizeof(text) - 1);
  return text;
}

void check_name(const std::string& name) {
  const bool bad =
      name.empty() || name.starts_with(".") || name.find('/') != std::string::npos ||
      std::any_of(name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; });
  if (bad) throw ConfigError(fmt::format("key 'run.name': '{}' cannot be part of a folder's name", name));
}

// NAME-STAMP or NAME-STAMP-N as {stamp, N}, which sorts by age; nothing for other names.
std::optional<std::pair<std::string, int>> age_of(const std::string& folder, const std::string& name) {
  if (!folder.starts_with(name + "-") || folder.size() < name.size() + 1 + kStampLength) return {};
  const std::string rest = folder.substr(name.size() + 1);
  const std::string_view stamp_text = std::string_view(rest).substr(0, kStampLength);
  for (size_t i = 0; i < kStampLength; ++i) {
    const bool right = i == 8 ? stamp_text[i] == '-' : stamp_text[i] >= '0' && stamp_text[i] <= '9';
    if (!right) return {};
  }
  if (rest.size() == kStampLength) return std::pair(rest, 1);
  int number = 0;
  const char *first = rest.data() + kStampLength + 1, *last = rest.data() + rest.size();
  const auto [end, error] = std::from_chars(first, last, number);
  if (rest[kStampLength] != '-' || error != std::errc() || end != last) return {};
  return std::pair(std::string(stamp_text), number);
}

// flock on an open file; the kernel drops it when the process ends.
class FolderLock {
 public:
  // Null where the file system has no locks. `cure` says what else the user may do.
  static std::shared_ptr<const void> take(const fs::path& folder, const char* cure) {
    const fs::path file = folder / kLockName;
    auto made = std::make_shared<FolderLock>(disk::open(file, O_RDWR | O_CREAT));
    struct stat facts{};
    disk::must(made->fd_ < 0 || ::fstat(made->fd_, &facts) != 0 ? -1 : 0, file);
    // Another copy in this process holds it for all.
    static std::mutex mutex;
    static std::map<std::pair<dev_t, ino_t>, std::weak_ptr<FolderLock>> held;
    const std::lock_guard guard(mutex);
    std::weak_ptr<FolderLock>& own = held[{facts.st_dev, facts.st_ino}];
    if (auto there = own.lock()) return there;
    if (::flock(made->fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return nullptr;
      throw RunError(fmt::format("{}: another process ({}) trains into this folder; wait for its end, or {}", folder.string(), owner(file), cure));
    }
    made->sign(file);
    own = made;
    return made;
  }
  explicit FolderLock(int fd) : fd_(fd) {}
  ~FolderLock() {
    if (fd_ >= 0) ::close(fd_);
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  // Who holds it, for the message to others: the lock itself is the kernel's.
  void sign(const fs::path& file) const {
    char host[256] = "localhost";
    gethostname(host, sizeof(host) - 1);
    disk::must(::ftruncate(fd_, 0), file);
    const std::string text = fmt::format("pid {} on {}", ::getpid(), host);
    disk::must(disk::write(fd_, text) < 0 ? -1 : 0, file);
  }
  static std::string owner(const fs::path& file) {
    const std::string text = read_file(file);
    return text.empty() ? "just started" : text;
  }
  int fd_;
};

bool can_resume(const fs::path& folder, const std::string& resolved_config) {
  return fs::is_regular_file(folder / kConfigName) && !fs::exists(folder / kFinishedName) &&
         read_file(folder / kConfigName) == resolved_config;
}

std::optional<fs::path> newest_unfinished(const fs::path& out, const std::string& name,
                                          const std::string& config) {
  if (!fs::is_directory(out)) return {};
  std::vector<std::pair<std::pair<std::string, int>, fs::path>> runs;
  for (const fs::directory_entry& entry : fs::directory_iterator(out)) {
    if (const auto age = age_of(entry.path().filename().string(), name))
      runs.emplace_back(*age, entry.path());
  }
  std::sort(runs.rbegin(), runs.rend());
  for (const auto& [age, path] : runs) {
    if (can_resume(path, config)) return path;
  }
  return {};
}

// What a system call that did not return 0 means for who opens a run.
void must_open(int result, const fs::path& path) {
  if (result == 0) return;
  const std::error_code error(errno, std::generic_category());
  throw fs::filesystem_error("cannot make it", path, error);
}

// Makes BASE, or BASE-2, BASE-3, ... when two runs start in the same second. The one that makes the folder
// owns it.
fs::path make_new_folder(const fs::path& base) {
  must_open(disk::make_folders(base.parent_path()), base.parent_path());
  fs::path folder = base;
  for (int number = 2; disk::make_folder(folder) != 0; ++number) {
    if (errno != EEXIST) must_open(-1, folder);
    folder = base;
    folder += fmt::format("-{}", number);
  }
  return folder;
}

void move_aside(const fs::path& folder) {
  std::time_t now = std::time(nullptr);
  fs::path aside = folder;
  aside += "-" + stamp(now);
  for (int number = 2; fs::exists(aside); ++number) {
    aside = folder;
    aside += fmt::format("-{}-{}", stamp(now), number);
  }
  must_open(disk::rename(folder, aside), folder);
  std::fprintf(stderr, "%s held another run; it is now %s\n", folder.c_str(), aside.c_str());
}

// config.yaml comes last: a folder without it was never a run, and is not resumed.
void write_head(const fs::path& folder, const std::string& config, const nlohmann::json& provenance) {
  write_file_atomically(folder / kProvenanceName, provenance.dump(2) + "\n");
  write_file_atomically(folder / kConfigName, config);
}

// Only what the making of a run leaves when it is killed before config.yaml: nothing that is anyone's work.
bool only_begun(const fs::path& folder) {
  return std::all_of(fs::directory_iterator(folder), fs::directory_iterator(), [](const fs::directory_entry& entry) {
    const fs::path name = entry.path().filename();
    return name == kLockName || name == kProvenanceName || name.extension() == ".tmp";
  });
}

RunFolder open_exact(const fs::path& folder, const std::string& config, const nlohmann::json& provenance,
                     bool fresh) {
  constexpr const char* kCure = "name another folder with --out";
  if (fs::exists(folder)) {
    const bool is_run = fs::is_directory(folder) && fs::exists(folder / kConfigName);
    if (!is_run && (!fs::is_directory(folder) || !only_begun(folder)))
      throw ConfigError(
          fmt::format("{}: holds something that is not a run; name another folder", folder.string()));
    const auto lock = FolderLock::take(folder, kCure);  // also before a run is moved aside
    if (!fresh && can_resume(folder, config)) return {folder, true, lock};
    if (is_run) move_aside(folder);
  }
  must_open(disk::make_folders(folder), folder);
  RunFolder made{folder, false, FolderLock::take(folder, kCure)};
  write_head(folder, config, provenance);
  return made;
}

}  // namespace

RunFolder RunFolder::open(const fs::path& out, const std::string& name, const std::string& resolved_config,
                          const nlohmann::json& provenance, bool fresh, bool exact) {
  check_name(name);
  // "runs/quick/" and "runs/quick" are one folder; the moved-aside name needs the latter form.
  const fs::path base = out.has_filename() || !out.has_parent_path() ? out : out.parent_path();
  try {
    if (exact) return open_exact(base, resolved_config, provenance, fresh);
    if (!fresh) {
      if (const auto path = newest_unfinished(base, name, resolved_config))
        return {*path, true, FolderLock::take(*path, "start another run with --new")};
    }
    const fs::path folder = make_new_folder(base / (name + "-" + stamp(std::time(nullptr))));
    RunFolder made{folder, false, FolderLock::take(folder, "start another run with --new")};
    write_head(folder, resolved_config, provenance);
    return made;
  } catch (const fs::filesystem_error& error) {
    const fs::path& where = error.path1().empty() ? out : error.path1();
    throw ConfigError(fmt::format("{}: cannot make or open a run here: {}{}", where.string(), error.code().message(),
                                  disk::cure(error.code().value())));
  }
}

void RunFolder::record_resume(int64_t step, const nlohmann::json& facts) const {
  const fs::path file = path / kProvenanceName;
  nlohmann::json provenance = nlohmann::json::parse(read_file(file), nullptr, /*allow_exceptions=*/false);
  if (!provenance.is_object() || !provenance.value("resumes", nlohmann::json::array()).is_array())
    throw DataError(fmt::format(
        "{}: damaged, so the resume cannot be recorded; restore it or start anew with --new", file.string()));
  nlohmann::json entry = facts;
  entry["time"] = utc(std::time(nullptr));
  entry["step"] = step;
  provenance["resumes"].push_back(std::move(entry));
  write_file_atomically(file, provenance.dump(2) + "\n");
}

void RunFolder::mark_finished() const { write_file_atomically(path / kFinishedName, ""); }

bool RunFolder::finished() const { return fs::exists(path / kFinishedName); }

}  // namespace trimtab
