// The engine for one instruction set: what engine.h declares as `extern template`.
#include "cpu/engine/isa.h"
//
#include "cpu/engine/engine.h"
#include "cpu/engine/pair_gram.h"

namespace ccdn {
namespace CCDN_ISA {

CCDN_WHOLE_ENGINE(template)

}  // namespace CCDN_ISA
}  // namespace ccdn
