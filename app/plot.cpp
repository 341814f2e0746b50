#include "app/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace trimtab {
namespace {

// The drawing's own units; the figure scales to its column.
constexpr double kWidth = 560, kHeight = 330, kLeft = 58, kRight = 14, kTop = 10, kBottom = 44;
constexpr double kMargin = 0.04;  // of the data's range, around it

struct Axis {
  double low = std::numeric_limits<double>::infinity(), high = -low, start = 0,
         end = 1;  // data range; drawing range
  void cover(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  void cover(const std::vector<double>& values) {
    for (const double value : values) cover(value);
  }
  void widen(bool keep_low) {
    const double size = high > low ? high - low : std::max(1e-9, std::abs(low) * 0.1);
    if (!keep_low) low -= kMargin * size;
    high += kMargin * size;
  }
  double place(double value) const { return start + (value - low) / (high - low) * (end - start); }
};

struct Frame {
  Axis x, y;
};

bool any_finite(const Plot& plot) {
  for (const Curve& curve : plot.curves) {
    for (size_t i = 0; i < curve.x.size(); ++i) {
      if (std::isfinite(curve.x[i]) && std::isfinite(curve.y[i])) return true;
    }
  }
  return false;
}

Frame frame_of(const Plot& plot) {
  Frame frame;
  for (const Curve& curve : plot.curves) {
    frame.x.cover(curve.x);
    frame.y.cover(curve.y);
    frame.x.cover(curve.x_low);
    frame.x.cover(curve.x_high);
    frame.y.cover(curve.y_low);
    frame.y.cover(curve.y_high);
  }
  if (plot.y_from_zero) frame.y.cover(0);
  frame.x.widen(frame.x.low == 0);
  frame.y.widen(plot.y_from_zero && frame.y.low == 0);
  frame.x.start = kLeft;
  frame.x.end = kWidth - kRight;
  frame.y.start = kHeight - kBottom;
  frame.y.end = kTop;
  return frame;
}

std::string axes(const Plot& plot, const Frame& frame) {
  std::string out;
  const std::vector<double> xs = round_ticks(frame.x.low, frame.x.high, 6),
                            ys = round_ticks(frame.y.low, frame.y.high, 6);
  for (const double tick : ys) {
    const double y = frame.y.place(tick);
    out += fmt::format("<line class='grid' x1='{:.1f}' x2='{:.1f}' y1='{:.1f}' y2='{:.1f}'/>", frame.x.start,
                       frame.x.end, y, y);
    out += fmt::format("<text class='tick' x='{:.1f}' y='{:.1f}' text-anchor='end'>{}</text>",
                       frame.x.start - 7, y + 4, tick_text(tick, ys.size() > 1 ? ys[1] - ys[0] : 1));
  }
  for (const double tick : xs) {
    const double x = frame.x.place(tick);
    out += fmt::format("<line class='axis' x1='{0:.1f}' x2='{0:.1f}' y1='{1:.1f}' y2='{2:.1f}'/>", x,
                       frame.y.start, frame.y.start + 4);
    out += fmt::format("<text class='tick' x='{:.1f}' y='{:.1f}' text-anchor='middle'>{}</text>", x,
                       frame.y.start + 18, tick_text(tick, xs.size() > 1 ? xs[1] - xs[0] : 1));
  }
  out += fmt::format("<line class='axis' x1='{:.1f}' x2='{:.1f}' y1='{:.1f}' y2='{:.1f}'/>", frame.x.start,
                     frame.x.end, frame.y.start, frame.y.start);
  out += fmt::format("<text class='label' x='{:.1f}' y='{:.1f}' text-anchor='middle'>{}</text>",
                     0.5 * (frame.x.start + frame.x.end), kHeight - 7, html_escaped(plot.x_label));
  out += fmt::format(
      "<text class='label' transform='translate(14 {:.1f}) rotate(-90)' text-anchor='middle'>{}</text>",
      0.5 * (frame.y.start + frame.y.end), html_escaped(plot.y_label));
  return out;
}

std::string path_of(const Curve& curve, const Frame& frame) {
  std::string path;
  bool pen_down = false;
  for (size_t i = 0; i < curve.x.size(); ++i) {
    const bool finite = std::isfinite(curve.x[i]) && std::isfinite(curve.y[i]);
    if (finite)
      path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", frame.x.place(curve.x[i]),
                          frame.y.place(curve.y[i]));
    pen_down = finite;
  }
  return fmt::format("<path class='line s{}{}' d='{}'><title>{}</title></path>", curve.colour,
                     curve.dashed ? " dashed" : "", path, html_escaped(curve.label));
}

std::string whisker(const Curve& curve, size_t i, const Frame& frame) {
  std::string out;
  const double x = frame.x.place(curve.x[i]), y = frame.y.place(curve.y[i]);
  if (i < curve.x_low.size() && std::isfinite(curve.x_low[i]))
    out += fmt::format("<line class='whisker s{}' x1='{:.1f}' x2='{:.1f}' y1='{:.1f}' y2='{:.1f}'/>",
                       curve.colour, frame.x.place(curve.x_low[i]), frame.x.place(curve.x_high[i]), y, y);
  if (i < curve.y_low.size() && std::isfinite(curve.y_low[i]))
    out += fmt::format("<line class='whisker s{}' x1='{:.1f}' x2='{:.1f}' y1='{:.1f}' y2='{:.1f}'/>",
                       curve.colour, x, x, frame.y.place(curve.y_low[i]), frame.y.place(curve.y_high[i]));
  return out;
}

std::string points_of(const Curve& curve, const Frame& frame) {
  std::string out;
  const double radius = curve.mark == Mark::kPoint && curve.colour != 0 ? 5.5 : 3.5;
  for (size_t i = 0; i < curve.x.size(); ++i) {
    if (!std::isfinite(curve.x[i]) || !std::isfinite(curve.y[i])) continue;
    out += whisker(curve, i, frame);
    const std::string name = i < curve.names.size() ? curve.names[i] : curve.label;
    out += fmt::format(
        "<circle class='point f{}' cx='{:.1f}' cy='{:.1f}' r='{}'><title>{}: {:.4g}, {:.4g}</title></circle>",
        curve.colour, frame.x.place(curve.x[i]), frame.y.place(curve.y[i]), radius, html_escaped(name),
        curve.x[i], curve.y[i]);
  }
  return out;
}

std::string legend(const Plot& plot) {
  std::string out;
  for (const Curve& curve : plot.curves) {
    if (!curve.in_legend || curve.label.empty()) continue;
    const std::string line = fmt::format("<line class='line s{}{}' x1='0' x2='20' y1='6' y2='6'/>",
                                         curve.colour, curve.dashed ? " dashed" : "");
    const std::string dot = fmt::format("<circle class='point f{}' cx='10' cy='6' r='4'/>", curve.colour);
    out += fmt::format("<li><svg width='20' height='12' aria-hidden='true'>{}{}</svg>{}</li>",
                       curve.mark != Mark::kPoint ? line : "", curve.mark != Mark::kLine ? dot : "",
                       html_escaped(curve.label));
  }
  return out.empty() ? "" : "<ul class='legend'>" + out + "</ul>";
}

}  // namespace

std::string plot_figure(const Plot& plot) {
  if (!any_finite(plot)) return "";
  const Frame frame = frame_of(plot);
  std::string body = axes(plot, frame);
  for (const Curve& curve : plot.curves) {
    if (curve.mark != Mark::kPoint) body += path_of(curve, frame);
  }
  for (const Curve& curve : plot.curves) {
    if (curve.mark != Mark::kLine) body += points_of(curve, frame);
  }
  const std::string note =
      plot.note.empty() ? "" : fmt::format("<p class='note'>{}</p>", html_escaped(plot.note));
  return fmt::format(
      "<figure><figcaption>{0}</figcaption>{1}{2}<svg class='plot' viewBox='0 0 {3} {4}' role='img' "
      "aria-label='{0}'>{5}</svg></figure>\n",
      html_escaped(plot.title), note, legend(plot), kWidth, kHeight, body);
}

std::string plot_css() {
  struct Colour {
    const char *light, *dark;
  };
  // Distinguishable with the common colour-vision deficiencies; the dark set keeps the contrast on a dark
  // page.
  const Colour colours[] = {{"#6f6e69", "#a3a29b"}, {"#2a78d6", "#4a94ee"}, {"#d95a1e", "#ee7d45"},
                            {"#12946a", "#27b185"}, {"#5b45c0", "#9d92f2"}, {"#b98300", "#d9a21b"},
                            {"#cf4f86", "#e273a5"}, {"#c23434", "#e66a6a"}};
  std::string light, dark, classes;
  for (size_t i = 0; i < std::size(colours); ++i) {
    light += fmt::format("--c{}:{};", i, colours[i].light);
    dark += fmt::format("--c{}:{};", i, colours[i].dark);
    classes += fmt::format(".s{0}{{stroke:var(--c{0})}}.f{0}{{fill:var(--c{0})}}", i);
  }
  return fmt::format(":root{{{}}}@media(prefers-color-scheme:dark){{:root{{{}}}}}{}", light, dark, classes) +
         ".plot{width:100%;height:auto;display:block}.grid{stroke:var(--hair);stroke-width:1}.axis{stroke:"
         "var(--axis);stroke-width:1}"
         ".tick{fill:var(--soft);font-size:12px;font-variant-numeric:tabular-nums}.label{fill:var(--soft);"
         "font-size:12.5px}"
         ".line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}.dashed{stroke-dasharray:"
         "5 4}"
         ".point{stroke:var(--page);stroke-width:1.5}.whisker{stroke-width:1.5;opacity:.75}";
}

std::string html_escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::vector<double> round_ticks(double low, double high, int wanted) {
  const double rough = (high - low) / wanted, power = std::pow(10.0, std::floor(std::log10(rough)));
  const double step = power * (rough <= power ? 1 : rough <= 2 * power ? 2 : rough <= 5 * power ? 5 : 10);
  std::vector<double> out;
  const double first = std::ceil(low / step - 1e-9);
  for (double k = first; k * step <= high + 1e-9 * step; ++k) out.push_back(k * step);
  return out;
}

std::string tick_text(double value, double step) {
  if (value == 0) return "0";
  const double size = std::abs(value);
  if (step >= 1e6) return fmt::format("{:g}M", value / 1e6);
  if (step >= 1e3 || size >= 1e6) return fmt::format("{:g}k", value / 1e3);
  const int decimals = step >= 1 ? 0 : std::min(6, static_cast<int>(std::ceil(-std::log10(step) - 1e-9)));
  return fmt::format("{:.{}f}", value, decimals);
}

}  // namespace trimtab
