#include "engine/adapters/page_pool.h"

#include <algorithm>
#include <iterator>
#include <new>

#include "core/error.h"

namespace trimtab {
namespace {

constexpr std::align_val_t kAligned{PagePool::kAlignment};

int64_t pages_in(int64_t budget_bytes, int64_t page_bytes) {
  if (page_bytes < PagePool::kAlignment || page_bytes % PagePool::kAlignment != 0)
    throw ConfigError(fmt::format("pages of {} bytes: give a multiple of {}", page_bytes, PagePool::kAlignment));
  if (budget_bytes < page_bytes)
    throw ConfigError(fmt::format("a pool of {} bytes holds no page of {}: give it more bytes, or smaller pages", budget_bytes, page_bytes));
  return budget_bytes / page_bytes;
}

}  // namespace

PageMap::PageMap(int64_t pages) : pages_(pages), free_{{0, pages}} { TT_CHECK_GT(pages, 0); }

std::optional<PageRun> PageMap::take(int64_t pages) {
  TT_CHECK_GT(pages, 0);
  const auto it = std::find_if(free_.begin(), free_.end(), [&](const auto& run) { return run.second >= pages; });
  if (it == free_.end()) return {};
  const auto [first, length] = *it;
  free_.erase(it);
  if (length > pages) free_.emplace(first + pages, length - pages);
  in_use_ += pages;
  return PageRun{first, pages};
}

void PageMap::give_back(PageRun run) {
  TT_CHECK(run.first >= 0 && run.pages > 0 && run.first + run.pages <= pages_, "pages {} to {} of {}", run.first, run.first + run.pages, pages_);
  auto after = free_.lower_bound(run.first);
  TT_CHECK(after == free_.end() || run.first + run.pages <= after->first, "page {} is free already", run.first);
  in_use_ -= run.pages;
  if (after != free_.end() && run.first + run.pages == after->first) run.pages += after->second, after = free_.erase(after);
  if (after != free_.begin()) {
    const auto before = std::prev(after);
    TT_CHECK_LE(before->first + before->second, run.first);
    if (before->first + before->second == run.first) {
      before->second += run.pages;
      return;
    }
  }
  free_.emplace(run.first, run.pages);
}

int64_t PageMap::largest_run() const {
  int64_t out = 0;
  for (const auto& [first, pages] : free_) out = std::max(out, pages);
  return out;
}

PagePool::PagePool(int64_t budget_bytes, int64_t page_bytes) : page_bytes_(page_bytes), pages_(pages_in(budget_bytes, page_bytes)), map_(pages_) {
  memory_.reset(static_cast<uint8_t*>(::operator new[](static_cast<size_t>(bytes()), kAligned, std::nothrow)));
  if (!memory_) throw ConfigError(fmt::format("a pool of {} bytes is more than there is memory: give it fewer", bytes()));
}

void PagePool::Free::operator()(uint8_t* memory) const { ::operator delete[](memory, kAligned); }

}  // namespace trimtab
