// Conv2dGeometry: output sizes, and what validate() refuses.
#include <stdexcept>

#include "arrays.h"
#include "check.h"
#include "mpl_sparse/conv2d.h"

using mpl_sparse::Conv2dGeometry;

namespace {

Conv2dGeometry sound() {
  Conv2dGeometry g;
  g.batch = 2;
  g.in_channels = 4;
  g.out_channels = 6;
  g.in_height = 7;
  g.in_width = 9;
  g.kernel_height = 3;
  g.kernel_width = 5;
  return g;
}

struct Size {
  const char* name;
  int64_t Conv2dGeometry::* member;
  int64_t least;
};

constexpr Size kSizes[] = {
    {"batch", &Conv2dGeometry::batch, 0},
    {"in_channels", &Conv2dGeometry::in_channels, 0},
    {"in_height", &Conv2dGeometry::in_height, 0},
    {"in_width", &Conv2dGeometry::in_width, 0},
    {"out_channels", &Conv2dGeometry::out_channels, 0},
    {"kernel_height", &Conv2dGeometry::kernel_height, 1},
    {"kernel_width", &Conv2dGeometry::kernel_width, 1},
    {"stride_height", &Conv2dGeometry::stride_height, 1},
    {"stride_width", &Conv2dGeometry::stride_width, 1},
    {"pad_top", &Conv2dGeometry::pad_top, 0},
    {"pad_bottom", &Conv2dGeometry::pad_bottom, 0},
    {"pad_left", &Conv2dGeometry::pad_left, 0},
    {"pad_right", &Conv2dGeometry::pad_right, 0},
    {"dilation_height", &Conv2dGeometry::dilation_height, 1},
    {"dilation_width", &Conv2dGeometry::dilation_width, 1},
    {"groups", &Conv2dGeometry::groups, 1},
};

void refuses(const char* text, const Conv2dGeometry& g) {
  CHECK_THROWS(std::invalid_argument, text, g.validate());
  CHECK_THROWS(std::invalid_argument, text, mpl_sparse::ValidConv2dGeometry{g});
}

template <class Change>
Conv2dGeometry with(Change change) {
  Conv2dGeometry g = sound();
  change(g);
  return g;
}

void refusals() {
  for (const Size& size : kSizes) {
    for (int64_t value : {size.least - 1, int64_t{1} << 31, INT64_MAX, INT64_MIN}) {
      Conv2dGeometry g = sound();
      g.*size.member = value;
      refuses(
          (std::string(size.name) + " must lie in [" + std::to_string(size.least) + ", 2147483647], got " + std::to_string(value))
              .c_str(),
          g);
    }
  }
  refuses("in_channels must be a multiple of groups, got 4 and 3", with([](auto& g) { g.groups = 3; }));
  refuses("out_channels must be a multiple of groups, got 6 and 4", with([](auto& g) { g.groups = 4; }));
  refuses("kernel_height: the dilated kernel spans 9 elements, more than the padded input's 8", with([](auto& g) {
            g.dilation_height = 4;
            g.pad_top = 1;
          }));
  refuses("kernel_width: the dilated kernel spans 5 elements, more than the padded input's 4",
          with([](auto& g) { g.in_width = 4; }));
  refuses("kernel_height", with([](auto& g) { g.in_height = 0; }));
  const int64_t big = (int64_t{1} << 31) - 1;
  refuses("the weight has too many elements", with([&](auto& g) { g.in_channels = g.kernel_height = g.kernel_width = big; }));
  refuses("kernel_width", with([&](auto& g) { g.dilation_width = g.kernel_width = big; }));
  refuses("the input has too many elements", with([&](auto& g) { g.batch = g.in_height = g.in_width = big; }));
  refuses("the output has too many elements", with([&](auto& g) {
            g.batch = 1 << 20;
            g.pad_top = g.pad_left = big - 16;
            g.in_channels = 1;
          }));
  // Positions in a kernel are 32-bit indices, seen from the input channels (the pattern's columns) and from the output channels.
  refuses("out_channels / groups * kernel_height * kernel_width must lie below 2^31, got 23861 * 90000", with([](auto& g) {
            g.out_channels = 23861;
            g.kernel_height = g.kernel_width = 300;
            g.in_height = g.in_width = 300;
          }));
}

void sizes() {
  Random random(3);
  for (int i = 0; i < 2000; ++i) {
    Conv2dGeometry g = sound();
    g.in_height = pick(random, 0, 12);
    g.kernel_height = pick(random, 1, 4);
    g.dilation_height = pick(random, 1, 3);
    g.stride_height = pick(random, 1, 5);
    g.pad_top = pick(random, 0, 4);
    g.pad_bottom = pick(random, 0, 4);
    int64_t count = 0;  // places where the kernel lies inside the padded input
    const int64_t padded = g.in_height + g.pad_top + g.pad_bottom;
    for (int64_t start = 0; start + g.dilation_height * (g.kernel_height - 1) < padded; start += g.stride_height) ++count;
    if (count == 0) {
      refuses("kernel_height", g);
    } else {
      g.validate();
      CHECK_EQ(g.out_height(), count);
    }
  }
}

}  // namespace

int main() {
  sound().validate();
  refusals();
  sizes();
  return checks::result();
}
