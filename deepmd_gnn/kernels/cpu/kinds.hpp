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
// other, perhaps for each kind of receivers; `from_sums` tells whether sources or targets are sums.
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

// What both directions need: receivers are taken a few at a time, so that their sums stay in the cache.
template <class L>
struct KindSums {
  static constexpr long BLOCK = LARGEST_BLOCK / 4;
  const Kinds kinds;
  const KindMap map;
  const long functions, table, row;  // numbers of a vector's table, and of the sums of a receiver and kind
  Scratch sums, places;
  long* const starts;  // see collect_by_kind
  MixingMemory memory;
  KindSums(const Input& in, const Mixing& linear, bool from_sums)
      : kinds(in, linear.nmatrix / linear.npath), map(linear, kinds, L::NHARM, from_sums), functions(in.channels),
        table(in.nkind * in.ntable * L::PATHS * NODE * LANES), row(L::NHARM * functions),
        sums(BLOCK * kinds.count * row), places((BLOCK * kinds.count + 1) * long(sizeof(long) / sizeof(T))),
        starts(reinterpret_cast<long*>(places.data)), memory(map.map.npath) {}

  // Kinds of the receivers from one on, if the map depends on them.
  const int64_t* receivers(const Input& in, long first) const { return map.map.ntypes > 1 ? in.kind + first : nullptr; }
  // Call for each block of receivers, from its first to after its last.
  template <class F>
  static void for_blocks(const Input& in, F f) {
    const long nnode = in.nnode;
    for (long first = first_receiver(in); first < nnode; first += BLOCK)
      f(first, first + BLOCK < nnode ? first + BLOCK : nnode);
  }
  // Call for the edges of each receiver and kind, with a vector's table and sums.
  template <class E, class F>
  void for_sums(const Input& in, const Edges<E>& edges, long receivers, F f) {
    for (long n = 0; n < receivers * kinds.count; ++n)
      for (long b = 0; b < functions / LANES; ++b)
        f(edges.data + starts[n], edges.data + starts[n + 1], in.table + b * table, sums.data + n * row + b * LANES);
  }
};

// out: (nnode, linear.width, linear.width_channels)
template <class L>
static void convolve_kinds(const Input& in, const Mixing& linear, T* out) {
  typedef Edge<L::NHARM, false> E;
  KindSums<L> all(in, linear, true);
  Edges<E> edges;
  std::memset(out, 0, sizeof(T) * first_receiver(in) * linear.width * linear.width_channels);
  all.for_blocks(in, [&](long first, long last) {
    collect_by_kind<L, false>(in, all.kinds, first, last, edges, all.starts);
    all.for_sums(in, edges, last - first, [&](const E* begin, const E* end, const T* table, T* sums) {
      L::forward(begin, end, table, sums, all.functions);
    });
    mix_rows(all.map.map, all.sums.data, all.receivers(in, first), last - first, all.memory,
             out + first * linear.width * linear.width_channels);
  });
}

// gradient: like the result of convolve_kinds; linear: the derivative of its map; d_vectors: (nedge, 3)
template <class L>
static void convolve_kinds_backward(const Input& in, const Mixing& linear, const T* gradient, long nedge,
                                    double* d_vectors) {
  typedef Edge<L::NHARM, true> E;
  KindSums<L> all(in, linear, false);
  Edges<E> edges;
  std::memset(d_vectors, 0, sizeof(double) * 3 * nedge);
  all.for_blocks(in, [&](long first, long last) {
    collect_by_kind<L, true>(in, all.kinds, first, last, edges, all.starts);
    mix_rows(all.map.map, gradient + first * linear.components * linear.channels, all.receivers(in, first),
             last - first, all.memory, all.sums.data);
    all.for_sums(in, edges, last - first, [&](E* begin, E* end, const T* table, const T* sums) {
      L::backward(begin, end, table, sums, all.functions);
    });
    put_forces(edges, d_vectors);
  });
}

}  // namespace mace
