// Edges of a block of atoms, radial tables, loops over the atoms.

namespace mace {

// Receivers whose edges are prepared together: their data and a table share the L2 cache. A large table does not stay
// there from one block to the next, which pays with more receivers.
constexpr long LARGEST_BLOCK = 64, SMALL_TABLE = 1 << 18;
static inline long receivers_at_once(long table) {
  return table * long(sizeof(T)) > SMALL_TABLE ? LARGEST_BLOCK : LARGEST_BLOCK / 4;
}

// What an edge needs: sender, place in the table, interpolation weights, harmonics and their gradients.
template <int NHARM, bool DERIVATIVE>
struct Edge {
  int64_t row, bin, id;
  T w[DERIVATIVE ? 10 : 5];                   // interpolation of the table: value, then derivative
  T y[NHARM];
  T g[DERIVATIVE ? NHARM : 1][3];             // dY/dr
  T u[3];                                     // direction
  T f[4];                                     // dE/dr: from the direction, and along it
};

struct Input {
  const double* vectors;   // (nedge, 3), sender minus receiver
  const T* sent;           // (nsender, components, channels)
  const T* table;          // (channel blocks, kinds, nodes, paths, NODE, LANES)
  const int64_t* sender;   // (nedge,)
  const int64_t* kind;     // (nedge,) or null; of senders, (nsender,), where sums are by kinds of senders
  const int64_t* order;    // edges grouped by receiver
  const int64_t* begin;    // (nnode + 1,)
  long nnode, nsender, channels, nkind, ntable;
  long nodes;    // of the table's ntable, those from 0 to the cutoff; the others are room
  double r_max, bend;  // cutoff; by how much nodes are denser near 0, see tables/radial.py
};

// Quintic Hermite polynomials on a grid of unit spacing: weights of slope and curvature at the first node, of the
// difference of the values, and of slope and curvature at the second node. With the difference in the table, neither
// value nor derivative is a difference of large numbers.
template <bool DERIVATIVE>
static inline void hermite(D t, D inverse, D* w) {
  const D t2 = t * t, t3 = t2 * t, t4 = t3 * t, t5 = t4 * t;
  w[0] = t - 6.0 * t3 + 8.0 * t4 - 3.0 * t5;
  w[1] = .5 * t2 - 1.5 * t3 + 1.5 * t4 - .5 * t5;
  w[2] = 10.0 * t3 - 15.0 * t4 + 6.0 * t5;
  w[3] = -4.0 * t3 + 7.0 * t4 - 3.0 * t5;
  w[4] = .5 * t3 - t4 + .5 * t5;
  if (DERIVATIVE) {
    w[5] = inverse * (1.0 - 18.0 * t2 + 32.0 * t3 - 15.0 * t4);
    w[6] = inverse * (t - 4.5 * t2 + 6.0 * t3 - 2.5 * t4);
    w[7] = inverse * (30.0 * t2 - 60.0 * t3 + 30.0 * t4);
    w[8] = inverse * (-12.0 * t2 + 28.0 * t3 - 15.0 * t4);
    w[9] = inverse * (1.5 * t2 - 4.0 * t3 + 2.5 * t4);
  }
}

// A node of the table holds value, slope, curvature and the difference to the next value; p and p + stride are the
// nodes around the edge.
constexpr int NODE = 4;
static inline V changes(const T* p, long stride, const T* w) {
  return load(p + LANES) * w[0] + load(p + 2 * LANES) * w[1] + load(p + 3 * LANES) * w[2] +
         load(p + stride + LANES) * w[3] + load(p + stride + 2 * LANES) * w[4];
}
static inline V radial(const T* p, long stride, const T* w) { return load(p) + changes(p, stride, w); }
static inline V radial_slope(const T* p, long stride, const T* w) { return changes(p, stride, w + 5); }

// The first receiver with edges: in front of the atoms is the guard, which has none, and whose rows of a matrix would be as
// many as an atom's.
static inline long first_receiver(const Input& in) {
  long i = 0;
  while (i < in.nnode && in.begin[i + 1] == in.begin[i]) ++i;
  return i;
}

// The edges of a block of receivers; memory is kept and not cleared.
template <class E>
struct Edges {
  std::unique_ptr<Scratch> memory;
  E* data = nullptr;
  long capacity = 0, count = 0;
  void reserve(long wanted) {
    if (wanted > capacity) {
      memory.reset();
      capacity = wanted + wanted / 4;
      memory.reset(new Scratch((capacity * sizeof(E) + sizeof(T) - 1) / sizeof(T)));
      data = reinterpret_cast<E*>(memory->data);
    }
    count = 0;
  }
};

// Whether an edge reaches the cutoff; one that is not a number does not. Compiled once: who asks twice gets the same answer.
static __attribute__((noinline)) bool too_far(const Input& in, int64_t id) {
  const double* v = in.vectors + 3 * id;
  return v[0] * v[0] + v[1] * v[1] + v[2] * v[2] >= in.r_max * in.r_max;
}

// What collected edges need besides, from their numbers, for as many at once as a vector has lanes.
template <class L, bool DERIVATIVE>
static void prepare(const Input& in, Edges<Edge<L::NHARM, DERIVATIVE>>& edges) {
  typedef Edge<L::NHARM, DERIVATIVE> E;
  constexpr int WEIGHTS = DERIVATIVE ? 10 : 5;
  const double scale = (in.nodes - 1) / in.r_max * (1.0 + in.bend * in.r_max);
  const long count = edges.count;
  for (long begin = 0; begin < count; begin += DLANES) {
    const long n = count - begin < DLANES ? count - begin : DLANES;
    D x[3] = {};
    for (long i = 0; i < DLANES; ++i) {
      const double* v = in.vectors + 3 * edges.data[begin + (i < n ? i : 0)].id;
      for (int k = 0; k < 3; ++k) x[k][i] = -v[k];  // MACE's sign
    }
    D length = x[0] * x[0] + x[1] * x[1] + x[2] * x[2];
    for (int i = 0; i < DLANES; ++i) length[i] = std::sqrt(length[i]);
    const D nearness = 1.0 / (1.0 + in.bend * length), per_length = scale * nearness * nearness;
    D between = scale * length * nearness, w[WEIGHTS];
    long bins[DLANES];
    for (int i = 0; i < DLANES; ++i) {
      const double place = between[i];
      bins[i] = place == place ? static_cast<long>(place) : 0;
      if (bins[i] > in.nodes - 2) bins[i] = in.nodes - 2;
      between[i] = place - bins[i];
    }
    hermite<DERIVATIVE>(between, per_length, w);
    const D reciprocal = 1.0 / length;
    for (int k = 0; k < 3; ++k) x[k] *= reciprocal;
    D y[L::NHARM], g[DERIVATIVE ? L::NHARM : 1][3];
    L::template harmonics<DERIVATIVE>(x, reciprocal, y, g);
    for (long i = 0; i < n; ++i) {
      E& e = edges.data[begin + i];
      e.bin = (e.bin * in.ntable + bins[i]) * L::PATHS * NODE * LANES;
      for (int q = 0; q < WEIGHTS; ++q) e.w[q] = w[q][i];
      for (int q = 0; q < L::NHARM; ++q) e.y[q] = y[q][i];
      if (DERIVATIVE) {
        for (int q = 0; q < L::NHARM; ++q)
          for (int k = 0; k < 3; ++k) e.g[q][k] = g[q][k][i];
        for (int k = 0; k < 3; ++k) e.u[k] = x[k][i];
        for (int k = 0; k < 4; ++k) e.f[k] = 0;
      }
    }
  }
}

// Collect the edges within the cutoff of the receivers first … last, and where each receiver's edges begin.
template <class L, bool DERIVATIVE>
static void collect(const Input& in, long first, long last, Edges<Edge<L::NHARM, DERIVATIVE>>& edges, long* starts) {
  typedef Edge<L::NHARM, DERIVATIVE> E;
  edges.reserve(in.begin[last] - in.begin[first]);
  for (long i = first; i < last; ++i) {
    starts[i - first] = edges.count;
    for (int64_t k = in.begin[i]; k < in.begin[i + 1]; ++k) {
      const int64_t id = in.order[k];
      if (too_far(in, id)) continue;
      E& e = edges.data[edges.count++];
      e.id = id;
      e.row = in.sender[id] * L::COMPONENTS * LANES;
      e.bin = in.kind ? in.kind[id] : 0;  // the table; prepare() makes it the place there
    }
  }
  starts[last - first] = edges.count;
  prepare<L, DERIVATIVE>(in, edges);
}

// The derivatives of the collected edges, from along and across their directions.
template <class E>
static void put_forces(const Edges<E>& edges, double* d_vectors) {
  for (long n = 0; n < edges.count; ++n) {
    const auto& e = edges.data[n];
    for (int k = 0; k < 3; ++k) d_vectors[3 * e.id + k] = -double(e.f[k]) - double(e.f[3]) * double(e.u[k]);
  }
}

// (rows, components, channels) → (channel blocks, rows, components, LANES), so that a block's rows lie together.
static void pack(const T* rows, long count, long channels, T* packed) {
  const long blocks = (channels + LANES - 1) / LANES;
  for (long b = 0; b < blocks; ++b)
    for (long i = 0; i < count; ++i)
      store(packed + (b * count + i) * LANES, load_part(rows + i * channels + b * LANES, channels - b * LANES));
}
static void unpack(const T* packed, long count, long channels, T* rows) {
  const long blocks = (channels + LANES - 1) / LANES;
  for (long b = 0; b < blocks; ++b)
    for (long i = 0; i < count; ++i)
      store_part(rows + i * channels + b * LANES, load(packed + (b * count + i) * LANES), channels - b * LANES);
}

// out: (nnode, L::WIDTH, channels), or what the linear map makes of it
template <class L>
static void convolve(const Input& in, const Mixing* linear, T* out) {
  const long blocks = (in.channels + LANES - 1) / LANES, rows = in.nsender * L::COMPONENTS;
  const long table = in.nkind * in.ntable * L::PATHS * NODE * LANES;
  Scratch packed(blocks * rows * LANES);
  pack(in.sent, rows, in.channels, packed.data);
  Edges<Edge<L::NHARM, false>> edges;
  long starts[LARGEST_BLOCK + 1];
  const long block = receivers_at_once(table / in.ntable * in.nodes), width = L::WIDTH * in.channels;
  const long begin = first_receiver(in);
  std::memset(out, 0, sizeof(T) * begin * (linear ? linear->width * linear->width_channels : width));
  Scratch sums(linear ? block * width : 0);
  MixingMemory memory(linear ? linear->npath : 0);
  for (long first = begin; first < in.nnode; first += block) {
    const long last = first + block < in.nnode ? first + block : in.nnode;
    collect<L, false>(in, first, last, edges, starts);
    T* results = linear ? sums.data : out + first * width;
    for (long b = 0; b < blocks; ++b)
      for (long i = first; i < last; ++i)
        L::forward(edges.data + starts[i - first], edges.data + starts[i - first + 1], in.table + b * table,
                   packed.data + b * rows * LANES, results + (i - first) * width + b * LANES, in.channels,
                   in.channels - b * LANES);
    if (linear)
      mix_rows(*linear, results, nullptr, last - first, memory, out + first * linear->width * linear->width_channels);
  }
}

// gradient: like the result of convolve; linear: the derivative of its map; d_vectors: (nedge, 3); d_sent: like sent, or
// null
template <class L>
static void convolve_backward(const Input& in, const Mixing* linear, const T* gradient, long nedge, double* d_vectors,
                              T* d_sent) {
  const long blocks = (in.channels + LANES - 1) / LANES, rows = in.nsender * L::COMPONENTS;
  const long table = in.nkind * in.ntable * L::PATHS * NODE * LANES;
  Scratch packed(blocks * rows * LANES), sums(d_sent ? blocks * rows * LANES : 0);
  pack(in.sent, rows, in.channels, packed.data);
  if (d_sent) std::memset(sums.data, 0, sizeof(T) * blocks * rows * LANES);
  std::memset(d_vectors, 0, sizeof(double) * 3 * nedge);
  Edges<Edge<L::NHARM, true>> edges;
  long starts[LARGEST_BLOCK + 1];
  const long block = receivers_at_once(table / in.ntable * in.nodes), width = L::WIDTH * in.channels;
  Scratch unmixed(linear ? block * width : 0);
  MixingMemory memory(linear ? linear->npath : 0);
  for (long first = first_receiver(in); first < in.nnode; first += block) {
    const long last = first + block < in.nnode ? first + block : in.nnode;
    collect<L, true>(in, first, last, edges, starts);
    const T* block_gradient = gradient + first * width;
    if (linear) {
      mix_rows(*linear, gradient + first * linear->components * linear->channels, nullptr, last - first, memory,
               unmixed.data);
      block_gradient = unmixed.data;
    }
    for (long b = 0; b < blocks; ++b)
      for (long i = first; i < last; ++i) {
        auto* begin = edges.data + starts[i - first];
        auto* end = edges.data + starts[i - first + 1];
        const T* upstream = block_gradient + (i - first) * width + b * LANES;
        const T* features = packed.data + b * rows * LANES;
        if (d_sent)
          L::template backward<true>(begin, end, in.table + b * table, features, upstream, in.channels,
                                     in.channels - b * LANES, sums.data + b * rows * LANES);
        else
          L::template backward<false>(begin, end, in.table + b * table, features, upstream, in.channels,
                                      in.channels - b * LANES, nullptr);
      }
    put_forces(edges, d_vectors);
  }
  if (d_sent) unpack(sums.data, rows, in.channels, d_sent);
}

// features: (nnode, P::VARIABLES, channels); coefficients: (channel blocks, types, P::TERMS, LANES)
template <class P>
static void contract(const T* features, const T* coefficients, const int64_t* kind, long nnode, long ntypes,
                     long channels, T* out) {
  const long blocks = (channels + LANES - 1) / LANES;
  for (long b = 0; b < blocks; ++b)
    for (long i = 0; i < nnode; ++i)
      P::forward(features + i * P::VARIABLES * channels + b * LANES,
                 coefficients + (b * ntypes + kind[i]) * P::TERMS * LANES,
                 out + i * P::WIDTH * channels + b * LANES, channels, channels - b * LANES);
}
template <class P>
static void contract_backward(const T* gradient, const T* features, const T* coefficients, const int64_t* kind,
                              long nnode, long ntypes, long channels, T* out) {
  const long blocks = (channels + LANES - 1) / LANES;
  for (long b = 0; b < blocks; ++b)
    for (long i = 0; i < nnode; ++i)
      P::backward(gradient + i * P::WIDTH * channels + b * LANES,
                  features + i * P::VARIABLES * channels + b * LANES,
                  coefficients + (b * ntypes + kind[i]) * P::TERMS * LANES,
                  out + i * P::VARIABLES * channels + b * LANES, channels, channels - b * LANES);
}

}  // namespace mace
