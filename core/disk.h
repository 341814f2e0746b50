// The system calls of the save path. Every file that must survive a kill is made, written, flushed, renamed and removed through these,
// so that a fault can be placed at any one of them: by tests (set_fault), or in the program by TRIMTAB_FAULT=N:KIND, read once, with
// KIND kill, kill_after, short_write, enospc or eio. TRIMTAB_FAULT=count prints the number of calls at the end of the program.
//
// Return values and errno are those of the calls they are named after; the paths given must exist in the way these ask for.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace trimtab::disk {

enum class FaultKind {
  kNone,
  kKill,        // SIGKILL before the call
  kKillAfter,   // SIGKILL behind it
  kShortWrite,  // a write takes half of its bytes and says so; other calls go well
  kNoSpace,     // the disk is full from this call on: what takes space fails, half of a write still fits
  kIoError      // this call fails with EIO
};

struct Fault {
  int64_t point = 0;  // the call it strikes, from 1; 0: none
  FaultKind kind = FaultKind::kNone;
};

void set_fault(Fault fault);              // calls are counted from here
void set_fault(const std::string& text);  // N:KIND, or count; ConfigError for anything else
int64_t calls();                          // so far

int open(const std::filesystem::path& file, int flags);  // O_CLOEXEC is added; new files have mode 0644
ssize_t write(int fd, std::string_view bytes);
int fsync(int fd);
int close(int fd);  // also closes where it fails
int rename(const std::filesystem::path& from, const std::filesystem::path& to);
int exchange(const std::filesystem::path& a, const std::filesystem::path& b);  // RENAME_EXCHANGE: both change places in one step
int remove(const std::filesystem::path& path);                                 // a file, a link or an empty folder
int remove_tree(const std::filesystem::path& path);                            // 0 also when there is none
int make_folder(const std::filesystem::path& folder);                          // EEXIST when it is there
int make_folders(const std::filesystem::path& folder);                         // with its parents; 0 also when it is there
int make_link(const std::string& target, const std::filesystem::path& link);

// "FILE: cannot write it: No space left on device; free some space and resume the run".
std::string problem(const std::filesystem::path& file, int error);
// The end of it: what the user can do; empty for errors that say it themselves.
const char* cure(int error);
// CheckpointError with that sentence (errno) when a call above did not return 0.
void must(int result, const std::filesystem::path& file);

}  // namespace trimtab::disk
