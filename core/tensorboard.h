// TensorBoard event files, written by hand. Internal to core.
//
// A file is a sequence of TFRecords: length (uint64, little endian), masked CRC-32C of those eight bytes,
// payload, masked CRC-32C of the payload (tensorflow/core/lib/io/record_writer.h describes it). A payload is
// an Event in protobuf's wire format (tensorflow/core/util/event.proto): 1: wall_time double, 2: step int64,
// 3: file_version string, 5: Summary, whose field 1 is a repeated Value (1: tag string, 2: simple_value
// float).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trimtab {

uint32_t crc32c(std::string_view bytes);        // Castagnoli polynomial, reflected (RFC 3720, 12.1)
std::string tensorboard_header(double time_s);  // the record every event file begins with
std::string tensorboard_record(double time_s, int64_t step,
                               const std::vector<std::pair<std::string, double>>& values);

}  // namespace trimtab
