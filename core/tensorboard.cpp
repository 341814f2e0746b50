#include "core/tensorboard.h"

#include <array>
#include <bit>
#include <cstring>

namespace trimtab {
namespace {

static_assert(std::endian::native == std::endian::little, "records are written as they lie in memory");

constexpr std::array<uint32_t, 256> crc_table() {
  constexpr uint32_t kCastagnoliReflected = 0x82F63B78;
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kCastagnoliReflected : 0);
    table[i] = crc;
  }
  return table;
}

// CRCs of data that holds CRCs are weak, so stored ones are rotated and shifted by a constant.
uint32_t masked_crc(std::string_view bytes) {
  constexpr uint32_t kMaskDelta = 0xa282ead8;
  return std::rotr(crc32c(bytes), 15) + kMaskDelta;
}

template <class T>
void append_raw(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

enum class WireType : uint32_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

void append_tag(std::string& out, uint32_t field, WireType type) {
  append_varint(out, field << 3 | static_cast<uint32_t>(type));
}

void append_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  append_tag(out, field, WireType::kLengthDelimited);
  append_varint(out, bytes.size());
  out += bytes;
}

std::string event_head(double time_s) {
  std::string event;
  append_tag(event, 1, WireType::kFixed64);
  append_raw(event, time_s);
  return event;
}

std::string framed(const std::string& event) {
  std::string out;
  append_raw(out, static_cast<uint64_t>(event.size()));
  append_raw(out, masked_crc(out));
  out += event;
  append_raw(out, masked_crc(event));
  return out;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = crc_table();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<uint8_t>(c)) & 0xFF];
  return ~crc;
}

std::string tensorboard_header(double time_s) {
  std::string event = event_head(time_s);
  append_bytes(event, 3, "brain.Event:2");
  return framed(event);
}

std::string tensorboard_record(double time_s, int64_t step,
                               const std::vector<std::pair<std::string, double>>& values) {
  std::string summary;
  for (const auto& [name, number] : values) {
    std::string value;
    append_bytes(value, 1, name);
    append_tag(value, 2, WireType::kFixed32);
    append_raw(value, static_cast<float>(number));
    append_bytes(summary, 1, value);
  }
  std::string event = event_head(time_s);
  append_tag(event, 2, WireType::kVarint);
  append_varint(event, static_cast<uint64_t>(step));
  append_bytes(event, 5, summary);
  return framed(event);
}

}  // namespace trimtab
