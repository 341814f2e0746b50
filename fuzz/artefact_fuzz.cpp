// runtime/: a controller from bytes, then decisions. The checksum is put right first, else it would refuse nearly every mutation.
#include <cstdio>
#include <cstring>
#include <limits>
#include <string_view>
#include <vector>

#include "fuzz/target.h"
#include "trimtab/runtime.h"

namespace trimtab::fuzz {
namespace {

// As runtime/src/file.c says: FNV-1a of the file with the digits taken as '0'.
void mend_checksum(std::vector<uint8_t>& bytes) {
  constexpr std::string_view kKey = "\"trimtab.checksum\":\"";
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const size_t at = text.find(kKey);
  if (at == std::string_view::npos || text.size() - at - kKey.size() < 16) return;
  uint8_t* digits = bytes.data() + at + kKey.size();
  std::memset(digits, '0', 16);
  uint64_t hash = 0xcbf29ce484222325;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  char hex[17];
  std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(hash));
  std::memcpy(digits, hex, 16);
}

void decide(tt_controller* controller, int agent, float value) {
  tt_agent_info info{};
  info.struct_size = sizeof info;
  FUZZ_CHECK(tt_get_agent_info(controller, agent, &info) == TT_OK && info.name != nullptr && info.meaning != nullptr);
  const size_t items = static_cast<size_t>(info.max_items);
  const std::vector<float> context(static_cast<size_t>(info.num_context), value), features(items * static_cast<size_t>(info.num_item), value);
  std::vector<float> action(items + static_cast<size_t>(info.action_size) + 1);
  for (const size_t n : {items, items / 2}) {
    const std::vector<uint8_t> mask(n, 1);
    const tt_status status = tt_decide(controller, agent, context.data(), features.data(), mask.data(), static_cast<int>(n), action.data());
    FUZZ_CHECK(status != TT_BAD_ARGUMENT || info.num_context + info.num_item == 0 || context.data() == nullptr || features.data() == nullptr);
  }
}

void open_and_decide(const std::vector<uint8_t>& bytes, bool self_test) {
  tt_open_options options = TT_OPEN_OPTIONS_INIT;
  options.run_self_test = self_test;
  tt_controller* controller = nullptr;
  char why[256] = "";
  const tt_status status = tt_open_memory(bytes.data(), bytes.size(), &options, &controller, why, sizeof why);
  FUZZ_CHECK((status == TT_OK) == (controller != nullptr) && (status == TT_OK || why[0] != '\0'));
  for (int agent = 0; !self_test && agent < tt_num_agents(controller); ++agent) {
    for (const float value : {0.5f, -3e38f, std::numeric_limits<float>::quiet_NaN()}) decide(controller, agent, value);
  }
  tt_close(controller);
}

void run_artefact(Bytes input) {
  std::vector<uint8_t> bytes(input.begin(), input.end());
  mend_checksum(bytes);
  open_and_decide(bytes, false);
  open_and_decide(bytes, true);
}

}  // namespace

extern const Target artefact;
const Target artefact{"artefact", run_artefact, 5};   // one of them is the copy with the right checksum

}  // namespace trimtab::fuzz
