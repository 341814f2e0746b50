// Plots as inline SVG text, drawn here so that a report needs no script and no network. Colours are CSS
// classes (plot_css) that follow the reader's light or dark setting; hovering a mark shows its values.
#pragma once

#include <string>
#include <vector>

namespace trimtab {

enum class Mark { kLine, kLineWithPoints, kPoint };

struct Curve {
  std::string label;
  std::vector<double> x, y;
  std::vector<double> x_low, x_high, y_low, y_high;  // intervals of points; empty: none
  std::vector<std::string> names = {};               // of points, shown on hovering
  Mark mark = Mark::kLine;
  int colour = 0;  // 0 neutral, 1..7 categorical
  bool dashed = false;
  bool in_legend = true;
};
struct Plot {
  std::string title, note, x_label, y_label;
  std::vector<Curve> curves;
  bool y_from_zero = false;
};

std::string plot_figure(
    const Plot& plot);  // <figure> with title, legend and <svg>; "" when nothing is finite
std::string plot_css();
std::string html_escaped(const std::string& text);

// At most `wanted` + 1 round numbers (1, 2 or 5 times a power of ten apart) within [low, high].
std::vector<double> round_ticks(double low, double high, int wanted);
std::string tick_text(double value, double step);

}  // namespace trimtab
