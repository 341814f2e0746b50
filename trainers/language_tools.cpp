#include "trainers/language_tools.h"

namespace trimtab {
namespace {

constexpr const char* kName = "libtorch";

}  // namespace

bool has_language_tools() { return Registry<LanguageTools>::instance().has(kName); }

const LanguageTools& language_tools(const std::string& wish) {
  if (!has_language_tools())
    throw ConfigError(
        fmt::format("{} needs LibTorch, and this program was built without it; run "
                    "scripts/setup --torch and build with -DTRIMTAB_TORCH=ON",
                    wish));
  return Registry<LanguageTools>::instance().get(kName, "language tools");
}

}  // namespace trimtab
