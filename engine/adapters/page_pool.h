// Memory in pages of one size, shared by all that a serving engine keeps per sequence and per adapter (the unified paging of S-LoRA, Sheng
// et al., arXiv 2311.03285). Runs of pages that lie behind one another are taken by first fit. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>

namespace trimtab {

struct PageRun {
  int64_t first = 0, pages = 0;
};

// Which pages are free. Copies are cheap: what would fit after some runs are given back is tried on one.
class PageMap {
 public:
  explicit PageMap(int64_t pages);
  std::optional<PageRun> take(int64_t pages);   // the first free run that is long enough; pages > 0
  void give_back(PageRun run);                  // any part of what was taken
  int64_t pages() const { return pages_; }
  int64_t in_use() const { return in_use_; }
  int64_t largest_run() const;                  // free pages behind one another

 private:
  int64_t pages_, in_use_ = 0;
  std::map<int64_t, int64_t> free_;   // first page, pages; no two touch
};

class PagePool {
 public:
  static constexpr int64_t kAlignment = 64;   // of pages, in bytes

  // As many pages as the budget holds. ConfigError when it holds none, or a page is no multiple of kAlignment.
  PagePool(int64_t budget_bytes, int64_t page_bytes);

  std::optional<PageRun> take(int64_t pages) { return map_.take(pages); }
  void give_back(PageRun run) { map_.give_back(run); }
  uint8_t* data(PageRun run) const { return memory_.get() + run.first * page_bytes_; }   // what it holds at first is not set
  int64_t page_bytes() const { return page_bytes_; }
  int64_t pages_of(int64_t bytes) const { return (bytes + page_bytes_ - 1) / page_bytes_; }
  int64_t pages() const { return pages_; }
  int64_t bytes() const { return pages_ * page_bytes_; }
  int64_t bytes_in_use() const { return map_.in_use() * page_bytes_; }
  int64_t largest_run() const { return map_.largest_run(); }
  const PageMap& map() const { return map_; }
  void become(PageMap map) { map_ = std::move(map); }   // a copy of map() on which runs were taken and given back

 private:
  struct Free {
    void operator()(uint8_t* memory) const;
  };
  const int64_t page_bytes_, pages_;   // asked for without a lock beside changes of the map
  PageMap map_;
  std::unique_ptr<uint8_t[], Free> memory_;
};

}  // namespace trimtab
