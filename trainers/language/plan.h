// The arithmetic of a language run before it starts, for `trimtab train CONFIG --dry-run`.
#pragma once

#include <string>

namespace trimtab {

class LanguageJob;

// Makes or reads the model, opens every phase's environment and looks at its first problems. ConfigError, DataError as training would throw.
std::string plan_of(const LanguageJob& job);

}  // namespace trimtab
