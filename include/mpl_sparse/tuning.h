// Whether the tiles that a convolution or a batched linear layer is cut into are refined by measurement.
#pragma once

namespace mpl_sparse {

// A cost model names the tiles. With tuning, the first dozen calls of a pattern at a geometry use and time the few tiles that the
// model takes for about as good, and later calls the fastest. Outputs and gradients to the input are the same bits whichever was
// chosen; only tiles that sum in the model's order take part. The gradient at the nonzeros always uses the model's own.
//
// On unless the environment variable MPL_SPARSE_TUNING is 0 when this is first asked.
bool tuning();

// Turns tuning on or off for plans that are made from now on, in the whole process.
void set_tuning(bool on);

}  // namespace mpl_sparse
