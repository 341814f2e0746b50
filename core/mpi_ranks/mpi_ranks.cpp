#include "core/mpi_ranks/mpi_ranks.h"

// The C interface alone: Open MPI's headers bring the C++ one of MPI 2 along, whose library Debian does not link.
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>
#include <sched.h>
#include <time.h>

#include <chrono>
#include <exception>
#include <thread>

#include "core/error.h"
#include "core/registry.h"

namespace trimtab {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kMostInOneCall = int64_t{1} << 28;   // numbers: MPI counts in int
constexpr std::chrono::nanoseconds kSpinBeside = std::chrono::microseconds(40), kSpin = std::chrono::milliseconds(2);

void check(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw RunError(fmt::format("{}: {}", what, std::string(text, length)));
}

class MpiRanks final : public Ranks {
 public:
  MpiRanks(const Launch& launch, double timeout_s) : timeout_s_(timeout_s) {
    int started = 0, have = 0;
    check(MPI_Initialized(&started), "MPI_Initialized");
    if (!started) check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &have), "MPI_Init_thread");
    check(MPI_Query_thread(&have), "MPI_Query_thread");
    if (have < MPI_THREAD_SERIALIZED)   // sums that overlap with backward come from a thread of their own
      throw ConfigError(fmt::format("MPI lets {} thread of this process call it, but sums over ranks come from several in turn (MPI_THREAD_SERIALIZED): use an Open MPI that "
                                    "`ompi_info | grep Thread` shows to support threads", have == MPI_THREAD_SINGLE ? "the only" : "the first"));
    check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
    local_rank_ = launch.local_rank;
    if (size_ != launch.size)
      throw ConfigError(fmt::format("{} started {} processes, but MPI connects {}: start with mpirun -np {}, or with srun --mpi=pmix where Slurm has it",
                                    launch.launcher, launch.size, size_, launch.size));
  }
  ~MpiRanks() override {
    int finished = 0;
    MPI_Finalized(&finished);
    // Finalising waits for all; a rank that ends by an error leaves without it, and mpirun then ends the others.
    if (!finished && healthy_ && std::uncaught_exceptions() == 0) MPI_Finalize();
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  int64_t bytes_sent() const override { return bytes_sent_; }
  void during(const std::string& what) override { during_ = what; }

  using Ranks::sum;
  void sum(std::span<double> values) override {
    const auto n = static_cast<int64_t>(values.size());
    doubles_.resize(n * size_);
    all_gather(values.data(), n, doubles_.data(), MPI_DOUBLE, sizeof(double), "a sum");
    add_parts<double>(doubles_, n);
    std::copy_n(doubles_.begin(), n, values.begin());
  }
  using Ranks::sum_scatter;
  void sum_scatter(std::span<float> values, int64_t first, int64_t end) override {
    const Pieces mine = pieces_of(values.size(), first, end);
    const int64_t own = mine.count[rank_];
    floats_.resize(own * size_);
    std::vector<int> count(size_, static_cast<int>(own)), place(size_);
    for (int r = 0; r < size_; ++r) place[r] = static_cast<int>(own * r);
    MPI_Request request;
    check(MPI_Ialltoallv(values.data(), mine.count.data(), mine.place.data(), MPI_FLOAT, floats_.data(), count.data(), place.data(), MPI_FLOAT, MPI_COMM_WORLD, &request),
          "MPI_Ialltoallv");
    wait(request, "a sum", end - first);
    bytes_sent_ += (end - first - own) * 4;
    add_parts<float>(floats_, own);
    std::copy_n(floats_.begin(), own, values.begin() + mine.place[rank_]);
  }
  void gather_pieces(std::span<float> values) override {
    const Pieces mine = pieces_of(values.size(), 0, static_cast<int64_t>(values.size()));
    MPI_Request request;
    check(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, values.data(), mine.count.data(), mine.place.data(), MPI_FLOAT, MPI_COMM_WORLD, &request), "MPI_Iallgatherv");
    wait(request, "an exchange of pieces", static_cast<int64_t>(values.size()));
    bytes_sent_ += int64_t{mine.count[rank_]} * 4 * (size_ - 1);
  }
  void broadcast(std::span<float> values, int root) override {
    for (size_t at = 0; at < values.size(); at += kMostInOneCall) {
      const auto n = static_cast<int>(std::min<size_t>(kMostInOneCall, values.size() - at));
      MPI_Request request;
      check(MPI_Ibcast(values.data() + at, n, MPI_FLOAT, root, MPI_COMM_WORLD, &request), "MPI_Ibcast");
      wait(request, "a broadcast", n);
      if (rank_ == root) bytes_sent_ += int64_t{n} * 4 * (size_ - 1);
    }
  }
  std::vector<std::string> gather(std::string_view bytes) override {
    const auto own = static_cast<int64_t>(bytes.size());
    std::vector<int64_t> sizes(size_);
    all_gather(&own, 1, sizes.data(), MPI_INT64_T, sizeof(int64_t), "an exchange of sizes");
    std::vector<int> count(size_), place(size_);
    int64_t total = 0;
    for (int r = 0; r < size_; ++r) {
      if (total + sizes[r] > INT32_MAX) throw RunError(fmt::format("an exchange of {} bytes over ranks is more than MPI's 2 GiB", total + sizes[r]));
      count[r] = static_cast<int>(sizes[r]), place[r] = static_cast<int>(total);
      total += sizes[r];
    }
    std::string all(total, '\0');
    MPI_Request request;
    check(MPI_Iallgatherv(bytes.data(), count[rank_], MPI_BYTE, all.data(), count.data(), place.data(), MPI_BYTE, MPI_COMM_WORLD, &request), "MPI_Iallgatherv");
    wait(request, "an exchange of bytes", total);
    bytes_sent_ += own * (size_ - 1);
    std::vector<std::string> out;
    for (int r = 0; r < size_; ++r) out.push_back(all.substr(place[r], count[r]));
    return out;
  }
  void barrier() override {
    MPI_Request request;
    check(MPI_Ibarrier(MPI_COMM_WORLD, &request), "MPI_Ibarrier");
    wait(request, "a barrier", 0);
  }

 private:
  struct Pieces {
    std::vector<int> count, place;
  };
  // What of the numbers [from, to) every rank owns.
  Pieces pieces_of(size_t size, int64_t from, int64_t to) const {
    if (static_cast<int64_t>(size) > kMostInOneCall * 4) throw RunError(fmt::format("a sum of {} numbers over ranks is more than MPI counts; cut it into parts", size));
    Pieces out;
    for (int r = 0; r < size_; ++r) {
      const auto [begin, stop] = piece(static_cast<int64_t>(size), r);
      const int64_t first = std::clamp(begin, from, to), end = std::clamp(stop, from, to);
      out.count.push_back(static_cast<int>(end - first)), out.place.push_back(static_cast<int>(first));
    }
    return out;
  }
  void all_gather(const void* own, int64_t n, void* all, MPI_Datatype type, int64_t width, const char* what) {
    MPI_Request request;
    check(MPI_Iallgather(own, static_cast<int>(n), type, all, static_cast<int>(n), type, MPI_COMM_WORLD, &request), "MPI_Iallgather");
    wait(request, what, n);
    bytes_sent_ += n * width * (size_ - 1);
  }
  template <class T>
  void add_parts(std::vector<T>& all, int64_t n) {
    std::vector<std::span<T>> parts;
    for (int r = 0; r < size_; ++r) parts.push_back(std::span(all).subspan(n * r, n));
    tree_sum<T>(parts);
  }
  // Polls, because most partners are microseconds away, then sleeps. The thread that opened has nothing else to do and is not put to sleep, which costs a
  // tenth of a millisecond, for a partner that is nearly there; it yields, since where ranks share cores the partner needs this one. A sum that overlaps with
  // backward comes from another thread and must not take the processor from it.
  void wait(MPI_Request& request, const char* what, int64_t numbers) {
    const auto start = Clock::now();
    const auto spin = std::this_thread::get_id() == opened_by_ ? kSpin : kSpinBeside;
    for (;;) {
      int done = 0;
      check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), what);
      if (done) return;
      const auto waited = Clock::now() - start;
      if (waited < spin) {
        if (waited > kSpinBeside) sched_yield();
        continue;
      }
      if (std::chrono::duration<double>(waited).count() > timeout_s_) fail(what, numbers);
      const timespec pause{.tv_sec = 0, .tv_nsec = waited < std::chrono::milliseconds(20) ? 30'000 : 200'000};
      nanosleep(&pause, nullptr);
    }
  }
  [[noreturn]] void fail(const char* what, int64_t numbers) {
    healthy_ = false;
    throw RunError(fmt::format("rank {} of {} waited {:g} s in {} of {} numbers during {}: another rank has stopped or hangs. Look at what the other ranks said last; "
                               "the same command goes on from the last checkpoint. TRIMTAB_RANK_TIMEOUT_S changes how long to wait",
                               rank_, size_, timeout_s_, what, numbers, during_));
  }

  double timeout_s_;
  std::thread::id opened_by_ = std::this_thread::get_id();
  int rank_ = 0, size_ = 1, local_rank_ = 0;
  int64_t bytes_sent_ = 0;
  bool healthy_ = true;
  std::string during_ = "the start";
  std::vector<double> doubles_;
  std::vector<float> floats_;
};

TT_REGISTER(RanksEntry, mpi, {.name = "mpi", .doc = "ranks over Open MPI", .open = [](const Launch& launch) { return open_mpi_ranks(launch, rank_timeout_s()); }});

}  // namespace

std::unique_ptr<Ranks> open_mpi_ranks(const Launch& launch, double timeout_s) { return std::make_unique<MpiRanks>(launch, timeout_s); }

}  // namespace trimtab
