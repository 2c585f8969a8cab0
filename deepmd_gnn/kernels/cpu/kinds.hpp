// Convolution of the first layer, where senders differ by their kind alone (their element): sums over neighbours of a few
// functions of the distance times harmonics, for each kind. The linear map brings the channels.

namespace mace {

// The kinds that occur among the senders of edges: a model may know many more.
struct Kinds {
  std::unique_ptr<Scratch> memory;
  int64_t *slot, *present;  // of each kind, or -1; kind of each slot
  long known, count = 0;
  Kinds(const Input& in, long nkind) : known(nkind) {
    memory.reset(new Scratch(2 * nkind * long(sizeof(int64_t) / sizeof(T))));
    slot = reinterpret_cast<int64_t*>(memory->data);
    present = slot + nkind;
    for (long k = 0; k < nkind; ++k) slot[k] = -1;
    for (int64_t n = in.begin[0]; n < in.begin[in.nnode]; ++n) {
      const int64_t kind = in.kind[in.sender[in.order[n]]];
      if (slot[kind] >= 0) continue;
      slot[kind] = count;
      present[count++] = kind;
    }
  }
  long of(const Input& in, int64_t edge) const { return slot[in.kind[in.sender[edge]]]; }
};

// Collect the edges within the cutoff of the receivers first … last, by receiver and kind of the sender; edges of the n-th such
// pair are from starts[n] to starts[n + 1].
template <class L, bool DERIVATIVE>
static void collect_by_kind(const Input& in, const Kinds& kinds, long first, long last,
                            Edges<Edge<L::NHARM, DERIVATIVE>>& edges, long* starts) {
  typedef Edge<L::NHARM, DERIVATIVE> E;
  edges.reserve(in.begin[last] - in.begin[first]);
  starts[0] = 0;
  for (long i = first; i < last; ++i) {
    long* next = starts + 1 + (i - first) * kinds.count;  // where the next edge goes, and in the end the end
    for (long s = 0; s < kinds.count; ++s) next[s] = 0;
    for (int64_t k = in.begin[i]; k < in.begin[i + 1]; ++k)
      if (!too_far(in, in.order[k])) ++next[kinds.of(in, in.order[k])];
    for (long s = 0; s < kinds.count; ++s) {
      const long number = next[s];
      next[s] = edges.count;
      edges.count += number;
    }
    for (int64_t k = in.begin[i]; k < in.begin[i + 1]; ++k) {
      const int64_t id = in.order[k];
      if (too_far(in, id)) continue;
      E& e = edges.data[next[kinds.of(in, id)]++];
      e.id = id;
      e.row = 0;
      // One table, or one for each pair of kinds; receivers are the first of the senders.
      e.bin = in.nkind > 1 ? in.kind[in.sender[id]] * kinds.known + in.kind[i] : 0;
    }
  }
  prepare<L, DERIVATIVE>(in, edges);
}

// The map between sums of the kinds that are there and channels. The given paths are those of one kind, and the matrices of one kind after the
// other; `from_sums` tells whether sources or targets are sums.
struct KindMap {
  std::unique_ptr<Scratch> memory;
  Mixing map;
  KindMap(const Mixing& of_kind, const Kinds& kinds, long harmonics, bool from_sums) : map(of_kind) {
    map.npath = of_kind.npath * kinds.count;
    memory.reset(new Scratch(4 * map.npath * long(sizeof(int64_t) / sizeof(T))));
    int64_t* row = reinterpret_cast<int64_t*>(memory->data);
    map.paths = row;
    (from_sums ? map.components : map.width) = kinds.count * harmonics;
    // By target: a component of the result gets a term from each kind, sums of a kind lie together.
    const long outer = from_sums ? of_kind.npath : kinds.count, inner = from_sums ? kinds.count : of_kind.npath;
    for (long a = 0; a < outer; ++a)
      for (long b = 0; b < inner; ++b, row += 4) {
        const long p = from_sums ? a : b, s = from_sums ? b : a;
        const int64_t* path = of_kind.paths + 4 * p;
        row[0] = path[0] + (from_sums ? s * harmonics : 0);
        row[1] = path[1] + (from_sums ? 0 : s * harmonics);
        row[2] = path[2];
        row[3] = kinds.present[s] * of_kind.npath + path[3];
      }
  }
};

// out: (nnode, linear.width, linear.width_channels)
template <class L>
static void convolve_kinds(const Input& in, const Mixing& linear, T* out) {
  const Kinds kinds(in, linear.nmatrix / linear.npath);
  const KindMap sums_to_channels(linear, kinds, L::NHARM, true);
  const long functions = in.channels, blocks = functions / LANES;
  const long table = in.nkind * in.ntable * L::PATHS * NODE * LANES;
  const long block = LARGEST_BLOCK / 4, row = L::NHARM * functions, width = kinds.count * row;
  Edges<Edge<L::NHARM, false>> edges;
  Scratch sums(block * width), places((block * kinds.count + 1) * long(sizeof(long) / sizeof(T)));
  long* starts = reinterpret_cast<long*>(places.data);
  MixingMemory memory(sums_to_channels.map.npath);
  for (long first = 0; first < in.nnode; first += block) {
    const long last = first + block < in.nnode ? first + block : in.nnode;
    collect_by_kind<L, false>(in, kinds, first, last, edges, starts);
    for (long n = 0; n < (last - first) * kinds.count; ++n)
      for (long b = 0; b < blocks; ++b)
        L::forward(edges.data + starts[n], edges.data + starts[n + 1], in.table + b * table,
                   sums.data + n * row + b * LANES, functions);
    mix_rows(sums_to_channels.map, sums.data, last - first, memory,
             out + first * linear.width * linear.width_channels);
  }
}

// gradient: like the result of convolve_kinds; linear: the derivative of its map; d_vectors: (nedge, 3)
template <class L>
static void convolve_kinds_backward(const Input& in, const Mixing& linear, const T* gradient, long nedge,
                                    double* d_vectors) {
  const Kinds kinds(in, linear.nmatrix / linear.npath);
  const KindMap channels_to_sums(linear, kinds, L::NHARM, false);
  const long functions = in.channels, blocks = functions / LANES;
  const long table = in.nkind * in.ntable * L::PATHS * NODE * LANES;
  const long block = LARGEST_BLOCK / 4, row = L::NHARM * functions, width = kinds.count * row;
  Edges<Edge<L::NHARM, true>> edges;
  Scratch sums(block * width), places((block * kinds.count + 1) * long(sizeof(long) / sizeof(T)));
  long* starts = reinterpret_cast<long*>(places.data);
  MixingMemory memory(channels_to_sums.map.npath);
  std::memset(d_vectors, 0, sizeof(double) * 3 * nedge);
  for (long first = 0; first < in.nnode; first += block) {
    const long last = first + block < in.nnode ? first + block : in.nnode;
    collect_by_kind<L, true>(in, kinds, first, last, edges, starts);
    mix_rows(channels_to_sums.map, gradient + first * linear.components * linear.channels, last - first, memory, sums.data);
    for (long n = 0; n < (last - first) * kinds.count; ++n)
      for (long b = 0; b < blocks; ++b)
        L::backward(edges.data + starts[n], edges.data + starts[n + 1], in.table + b * table,
                    sums.data + n * row + b * LANES, functions);
    put_forces(edges, d_vectors);
  }
}

}  // namespace mace
