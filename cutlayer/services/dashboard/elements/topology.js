export default {
  template: `
    <div ref="box">
      <svg :viewBox="'0 0 ' + shown.width + ' ' + shown.height" role="img" :aria-label="said">
        <g v-for="edge in shown.edges" :key="edge.id" :class="['edge', {flows: edge.flows, dark: edge.dark}]" :data-edge="edge.id">
          <path :d="edge.path" :stroke-width="edge.width"></path>
        </g>
        <g v-for="node in shown.nodes" :key="node.id" :class="['node', node.live ? 'good' : 'dark']" :data-node="node.id">
          <rect :x="node.x" :y="node.y" :width="node.w" :height="node.h" rx="9"></rect>
          <circle class="lamp" :cx="node.x + node.w - 15" :cy="node.y + 18" r="5"></circle>
          <text class="name" :x="node.x + 14" :y="node.y + 23">{{ node.name }}</text>
          <text v-for="(line, n) in node.lines" :key="n" :class="['more', {status: n === node.lines.length - 1}]"
                :x="node.x + 14" :y="node.y + 42 + 16 * n">{{ line }}</text>
          <g v-for="lamp in node.lamps" :key="lamp.name" :class="['node', lamp.live ? 'good' : 'dark']">
            <circle class="lamp" :cx="lamp.x + 2" :cy="lamp.y" r="4.5"></circle>
            <text class="more" :x="lamp.x + 14" :y="lamp.y + 4">{{ lamp.name }}{{ lamp.live ? "" : " (away)" }}</text>
          </g>
        </g>
        <g v-for="edge in labelled" :key="edge.id" class="edge">
          <text :x="edge.x" :y="edge.y">{{ edge.label }}</text>
        </g>
      </svg>
    </div>`,
  props: { wide: Object, narrow: Object, summary: String },
  data() {
    return { pictures: { wide: this.wide, narrow: this.narrow }, said: this.summary, small: false };
  },
  computed: {
    shown() {
      return this.small ? this.pictures.narrow : this.pictures.wide;
    },
    labelled() {
      return this.shown.edges.filter((edge) => edge.label);
    },
  },
  mounted() {
    this.size = new ResizeObserver(() => (this.small = this.$refs.box.clientWidth < 640));
    this.size.observe(this.$refs.box);
  },
  beforeUnmount() {
    this.size.disconnect();
  },
  methods: {
    show({ wide, narrow, summary }) {
      this.pictures = { wide, narrow };
      this.said = summary;
    },
  },
};
