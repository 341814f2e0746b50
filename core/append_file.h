// A file that only grows, for what a run logs. Every append reaches the kernel at once, so a killed run loses nothing it logged.
#pragma once

#include <filesystem>
#include <string_view>

namespace trimtab {

// Made where there is none. RunError naming the file, the reason and the cure where it can't be opened, written or flushed.
class AppendFile {
 public:
  explicit AppendFile(std::filesystem::path path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view bytes);
  void flush();   // to the disk

 private:
  [[noreturn]] void fail() const;   // errno

  std::filesystem::path path_;
  int fd_;
};

}  // namespace trimtab
