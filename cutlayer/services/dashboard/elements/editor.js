const TALL = 20, MOST = 200000;

export default {
  template: `
    <div class="editor">
      <div class="lines" ref="lines" aria-hidden="true"><template v-for="n in count" :key="n"><b v-if="n === wrong">{{ n }}</b><template v-else>{{ n }}</template>{{ "\\n" }}</template></div>
      <div class="paper">
        <div v-if="wrong" class="mark" :style="{top: (10 + (wrong - 1) * 20 - top) + 'px'}"></div>
        <textarea ref="text" aria-label="Experiment, YAML" aria-describedby="verdict" :aria-invalid="wrong ? 'true' : 'false'"
          spellcheck="false" autocapitalize="off" autocomplete="off" wrap="off" @input="typed" @scroll="scrolled"></textarea>
      </div>
    </div>`,
  props: { text: String },
  data() {
    return { count: 1, wrong: null, top: 0 };
  },
  mounted() {
    this.$refs.text.value = this.text;
    this.number();
    window.cutlayer.editor = this;
  },
  methods: {
    number() {
      this.count = this.$refs.text.value.split("\n").length;
    },
    scrolled() {
      this.top = this.$refs.text.scrollTop;
      this.$refs.lines.scrollTop = this.top;
    },
    typed() {
      this.number();
      clearTimeout(this.pause);
      this.pause = setTimeout(() => this.tell(), 400);
    },
    tell() {
      this.$emit("changed", this.$refs.text.value);
    },
    mark(line) {
      this.wrong = line;
      if (!line) return;
      const box = this.$refs.text, y = (line - 1) * TALL;
      if (y < box.scrollTop || y > box.scrollTop + box.clientHeight - 2 * TALL) box.scrollTop = Math.max(0, y - 100);
    },
    write(text) {
      this.$refs.text.value = text;
      this.wrong = null;
      this.number();
      this.tell();
    },
    // A file that somebody chose is read here; the server sees its text like any other.
    async take(input) {
      const file = input.files[0];
      input.value = "";
      if (!file) return;
      this.write(file.size > MOST ? "# this file is too large to be an experiment" : await file.text());
    },
  },
};
