// PEFT's adapter_config.json, and that what was read is written as something that reads the same.
#include <filesystem>

#include "core/error.h"
#include "fuzz/target.h"
#include "policies/language/lora.h"

namespace trimtab::fuzz {
namespace {

LoraConfig read(Bytes input) { return LoraConfig::read(std::filesystem::path(write_input("adapter_config.json", input)).parent_path()); }

void run_adapter(Bytes input) {
  try {
    const LoraConfig config = read(input);
    FUZZ_CHECK(config.rank >= 1 && !config.targets.empty());
    const std::string written = config.json();
    FUZZ_CHECK(read({reinterpret_cast<const uint8_t*>(written.data()), written.size()}).json() == written);
  } catch (const DataError&) {
  }
}

}  // namespace

extern const Target adapter;
const Target adapter{"adapter", run_adapter};

}  // namespace trimtab::fuzz
