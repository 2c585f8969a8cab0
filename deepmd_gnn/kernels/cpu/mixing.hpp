// Linear maps between the channels of each irrep: rows of many atoms times a few matrices. No row is copied, and what
// several irreps add to the same one is summed in registers.
// The generator puts before it: Term, ROWS, VECTORS and products().

namespace mace {

struct Mixing {
  const T* features;       // (nnode, components, channels)
  const T* matrices;       // (vectors of the result's channels, types, matrices, channels, LANES)
  const int64_t* paths;    // (npath, 4): source, target, dimension, matrix; sorted by target
  const int64_t* kind;     // (nnode,), or null if all nodes have the same matrices
  long nnode, components, channels, ntypes, nmatrix, npath, width, width_channels;
  T* out;                  // (nnode, width, width_channels)
};

// Nodes that are multiplied with one matrix after the other: their rows stay in the cache.
constexpr long TOGETHER = 48;

// One irrep of the result, from the paths that lead to it, of some nodes of a type.
static void mix_irrep(const Mixing& m, const int64_t* paths, long npath, const int64_t* nodes, long count, long type,
                      Term* terms, T* unused) {
  const long target = paths[1], dim = paths[2], rows = count * dim;
  const long step = m.ntypes * m.nmatrix * m.channels * LANES;
  const long vectors = (m.width_channels + LANES - 1) / LANES;
  for (long v = 0; v < vectors; v += VECTORS) {
    for (long p = 0; p < npath; ++p)
      terms[p] = {paths[4 * p] * m.channels,
                  m.matrices + v * step + (type * m.nmatrix + paths[4 * p + 3]) * m.channels * LANES};
    for (long begin = 0; begin < rows; begin += ROWS) {
      const T* sources[ROWS];
      T* targets[ROWS];
      for (long r = 0; r < ROWS; ++r) {
        // The last rows may be fewer: the others are computed and forgotten.
        const long row = begin + r < rows ? begin + r : begin;
        const long node = nodes[row / dim], component = row % dim;
        sources[r] = m.features + (node * m.components + component) * m.channels;
        targets[r] = begin + r < rows
                         ? m.out + (node * m.width + target + component) * m.width_channels + v * LANES
                         : unused;
      }
      products(vectors - v, sources, targets, terms, npath, m.channels, step, m.width_channels - v * LANES);
    }
  }
}

// All irreps of the result of some nodes of a type.
static void mix_nodes(const Mixing& m, const int64_t* nodes, long count, long type, Term* terms, T* unused) {
  for (long p = 0, after; p < m.npath; p = after) {
    for (after = p + 1; after < m.npath && m.paths[4 * after + 1] == m.paths[4 * p + 1];) ++after;
    mix_irrep(m, m.paths + 4 * p, after - p, nodes, count, type, terms, unused);
  }
}

// Components that no path leads to are zero.
static void clear_unreached(const Mixing& m) {
  long reached = 0;
  for (long p = 0; p < m.npath; ++p)
    if (p == 0 || m.paths[4 * p + 1] != m.paths[4 * p - 3]) reached += m.paths[4 * p + 2];
  if (reached < m.width) std::memset(m.out, 0, m.nnode * m.width * m.width_channels * sizeof(T));
}

// What the loops need besides, for any number of calls.
struct MixingMemory {
  Scratch unused{VECTORS * LANES}, space;
  Term* terms;
  explicit MixingMemory(long npath)
      : space(npath * long(sizeof(Term) / sizeof(T))), terms(reinterpret_cast<Term*>(space.data)) {}
};

static void mix(const Mixing& m) {
  clear_unreached(m);
  // The nodes by type, and where each type begins.
  Scratch memory((m.nnode + m.ntypes + 1) * long(sizeof(int64_t) / sizeof(T)));
  int64_t* nodes = reinterpret_cast<int64_t*>(memory.data);
  int64_t* begin = nodes + m.nnode;
  std::memset(begin, 0, (m.ntypes + 1) * sizeof(int64_t));
  for (long i = 0; i < m.nnode; ++i) ++begin[(m.kind ? m.kind[i] : 0) + 1];
  for (long t = 0; t < m.ntypes; ++t) begin[t + 1] += begin[t];
  for (long i = 0; i < m.nnode; ++i) nodes[begin[m.kind ? m.kind[i] : 0]++] = i;
  // Now each type's entry tells where it ends.
  MixingMemory own(m.npath);
  for (long t = 0; t < m.ntypes; ++t)
    for (long first = t ? begin[t - 1] : 0; first < begin[t]; first += TOGETHER)
      mix_nodes(m, nodes + first, begin[t] - first < TOGETHER ? begin[t] - first : TOGETHER, t, own.terms,
                own.unused.data);
}

// The map of the rows of a few nodes, whose types are given, or null if all have the same matrices.
static void mix_rows(Mixing m, const T* features, const int64_t* kind, long count, MixingMemory& own, T* out) {
  m.features = features;
  m.nnode = count;
  m.out = out;
  clear_unreached(m);
  int64_t nodes[TOGETHER];
  for (long t = 0; t < (kind ? m.ntypes : 1); ++t) {
    long number = 0;
    for (long i = 0; i < count; ++i) {
      if (kind && kind[i] != t) continue;
      nodes[number++] = i;
      if (number < TOGETHER) continue;
      mix_nodes(m, nodes, number, t, own.terms, own.unused.data);
      number = 0;
    }
    if (number) mix_nodes(m, nodes, number, t, own.terms, own.unused.data);
  }
}

}  // namespace mace
