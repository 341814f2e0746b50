#include "core/launch.h"

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/registry.h"

namespace trimtab {
namespace {

// The variables that a launcher sets. `mark` is there only where it has started this very process.
struct Variables {
  const char *launcher, *mark, *rank, *size, *local_rank;
};
constexpr Variables kLaunchers[] = {
    {"mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
    {"torchrun", "TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK"},
    {"srun", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"},
};

int number_of(const Variables& v, const char* name) {
  const char* text = std::getenv(name);
  if (!text) throw ConfigError(fmt::format("{} has set {} but not {}: start trimtab by mpirun, srun or torchrun, or without them", v.launcher, v.mark, name));
  int value = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  if (error != std::errc() || *end != '\0' || value < 0)
    throw ConfigError(fmt::format("{}={}, set by {}: expected a whole number of at least 0", name, text, v.launcher));
  return value;
}

}  // namespace

Launch Launch::of_environment() {
  for (const Variables& v : kLaunchers) {
    if (!std::getenv(v.mark)) continue;
    const Launch out{v.launcher, number_of(v, v.rank), number_of(v, v.size), number_of(v, v.local_rank)};
    if (out.rank >= out.size || out.local_rank > out.rank)
      throw ConfigError(fmt::format("{}={}, {}={}, {}={} contradict each other: a rank is below their number, and a local rank not above the rank", v.rank, out.rank,
                                    v.size, out.size, v.local_rank, out.local_rank));
    return out;
  }
  return {};
}

double rank_timeout_s() {
  const char* text = std::getenv("TRIMTAB_RANK_TIMEOUT_S");
  if (!text) return 1800;
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (end == text || *end != '\0' || !(value > 0))
    throw ConfigError(fmt::format("TRIMTAB_RANK_TIMEOUT_S={}: expected a number of seconds above 0", text));
  return value;
}

std::unique_ptr<Ranks> open_ranks() {
  const Launch launch = Launch::of_environment();
  if (launch.size <= 1) return nullptr;
  const auto& entries = Registry<RanksEntry>::instance();
  if (entries.names().empty())
    throw ConfigError(fmt::format("{} started {} processes, but this build trains in one: install Open MPI (scripts/setup --ranks) and configure with -DTRIMTAB_MPI=ON",
                                  launch.launcher, launch.size));
  return entries.get(entries.names()[0], "way to connect ranks").open(launch);
}

void expect_same_on_all(Ranks& ranks, const std::string& what, const std::string& text) {
  const std::vector<std::string> all = ranks.gather(text);
  for (size_t r = 1; r < all.size(); ++r) {
    if (all[r] == all[0]) continue;
    std::istringstream first(all[0]), other(all[r]);
    std::string a, b;
    for (int64_t line = 1;; ++line) {
      const bool more_a = static_cast<bool>(std::getline(first, a)), more_b = static_cast<bool>(std::getline(other, b));
      if (more_a && more_b && a == b) continue;
      throw ConfigError(fmt::format("rank {} has another {} than rank 0: '{}' against '{}' (line {}); start every rank with the same command on the same files", r, what,
                                    more_b ? b : "nothing", more_a ? a : "nothing", line));
    }
  }
}

}  // namespace trimtab
