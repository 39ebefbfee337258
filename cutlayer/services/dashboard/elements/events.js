const MOST = 5000;

export default {
  template: `
    <div ref="box" class="events" tabindex="0" role="list" aria-label="Events, the newest first" @scroll="look">
      <div :style="{height: (rows_.length * tall) + 'px'}">
        <div v-for="row in seen" :key="row.id" :class="['event', row.mood]" role="listitem"
             :style="{top: row.top + 'px', height: tall + 'px'}">
          <time :data-at="row.at" data-as="clock"></time><i aria-hidden="true"></i><span :title="row.text">{{ row.text }}</span>
        </div>
      </div>
      <p v-if="!rows_.length" class="empty">No such event yet. New ones appear here by themselves.</p>
    </div>`,
  props: { rows: Array },
  data() {
    return { rows_: Vue.markRaw([...Vue.toRaw(this.rows)]), top: 0, seen: [], tall: 50, ended: false, asked: 0 };
  },
  mounted() {
    this.size = new ResizeObserver(() => {
      this.tall = this.$refs.box.clientWidth < 500 ? 54 : 36;
      this.look();
    });
    this.size.observe(this.$refs.box);
    this.look();
  },
  beforeUnmount() {
    this.size.disconnect();
  },
  methods: {
    look() {
      const box = this.$refs.box;
      if (!box) return;
      const first = Math.max(0, Math.floor(box.scrollTop / this.tall) - 4);
      const last = Math.min(this.rows_.length, first + Math.ceil(box.clientHeight / this.tall) + 9);
      this.seen = this.rows_.slice(first, last).map((row, n) => ({ ...row, top: (first + n) * this.tall }));
      const end = this.rows_[this.rows_.length - 1];
      if (last >= this.rows_.length - 5 && end && !this.ended && this.asked !== end.id) {
        this.asked = end.id;
        this.$emit("older", end.id);
      }
    },
    set(rows) {
      this.rows_ = Vue.markRaw(rows);
      this.look();
    },
    add(rows) {
      const box = this.$refs.box;
      const stay = box.scrollTop > 5; // who reads further down is not pushed away
      this.set([...rows, ...this.rows_].slice(0, MOST));
      if (stay) box.scrollTop += rows.length * this.tall;
      this.look();
    },
    extend(rows) {
      if (!rows.length || this.rows_.length >= MOST) this.ended = true;
      this.set([...this.rows_, ...rows]);
    },
    replace(rows) {
      this.ended = false;
      this.asked = 0;
      this.$refs.box.scrollTop = 0;
      this.set(rows);
    },
  },
};
