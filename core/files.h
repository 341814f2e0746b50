// Files: what reaches the disk whole or not at all.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace trimtab {

// Writes beside, fsyncs, renames over `file`, fsyncs the folder. Throws CheckpointError naming file and cause
// (disk full, ...).
void write_file_atomically(const std::filesystem::path& file, std::string_view contents);
// The steps of it, for who writes several files before one rename (core/checkpoint.h). Both throw
// CheckpointError.
void write_file_flushed(const std::filesystem::path& file, std::string_view contents);
void flush_folder(
    const std::filesystem::path& folder);  // makes renames inside `folder` last over a power cut

std::string read_file(const std::filesystem::path& file);    // DataError when it cannot be read
std::string hash_bytes(std::string_view bytes);              // XXH3 128, 32 hex digits
std::string hash_file(const std::filesystem::path& file);    // XXH3 128 of the contents, read in pieces
std::string sha256_file(const std::filesystem::path& file);  // for users' own comparison (eval --json)

}  // namespace trimtab
