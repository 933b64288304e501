// What a forward operation does to its results before it stores them.
#pragma once

namespace mpl_sparse {

enum class Activation {
  none,
  relu,  // max(x, 0) as torch.relu: NaN and -0.0 stay what they are
};

}  // namespace mpl_sparse
