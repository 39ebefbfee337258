import { echarts } from "nicegui-echart";

// Options come without code: "var(--x)" is a colour of the theme, "fn:x" one of the functions in page.js.
const resolved = (value, style, context) => {
  if (typeof value === "string") {
    if (value.startsWith("var(--")) return style.getPropertyValue(value.slice(4, -1)).trim();
    if (value.startsWith("fn:")) return window.cutlayer.functions[value.slice(3)](context);
    return value;
  }
  if (Array.isArray(value)) return value.map((each) => resolved(each, style, context));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, resolved(each, style, context)]));
  }
  return value;
};

const colours = (style, name) => style.getPropertyValue(name).trim();

const theme = (style) => {
  const ink = colours(style, "--ink"), muted = colours(style, "--muted"), line = colours(style, "--line");
  const axis = {
    axisLine: { lineStyle: { color: colours(style, "--axis") } },
    axisTick: { lineStyle: { color: colours(style, "--axis") } },
    axisLabel: { color: muted, fontSize: 11 },
    nameTextStyle: { color: muted, fontSize: 11 },
    splitLine: { lineStyle: { color: line } },
  };
  return {
    textStyle: { fontFamily: colours(style, "--font"), color: ink },
    backgroundColor: "transparent",
    valueAxis: axis, categoryAxis: axis, timeAxis: axis, logAxis: axis,
    legend: {
      textStyle: { color: ink, fontSize: 12 }, itemWidth: 18, itemHeight: 9, icon: "roundRect",
      inactiveColor: colours(style, "--axis"), pageIconColor: muted, pageIconInactiveColor: line,
      pageTextStyle: { color: muted },
    },
    tooltip: {
      backgroundColor: colours(style, "--surface"), borderColor: colours(style, "--axis"), borderWidth: 1,
      textStyle: { color: ink, fontSize: 12 }, padding: [7, 10],
      axisPointer: { lineStyle: { color: muted }, shadowStyle: { color: "rgba(128,128,128,.12)" } },
    },
  };
};

export default {
  template: `
    <div class="chart-box">
      <ul v-if="keys.length" class="keys" aria-label="What is drawn">
        <li v-for="key in keys" :key="key.name">
          <button type="button" :aria-pressed="key.on ? 'true' : 'false'" :title="(key.on ? 'Hide ' : 'Show ') + key.name"
                  @click="toggle(key.name)"><i :style="{background: key.colour}"></i>{{ key.name }}</button>
        </li>
      </ul>
      <div ref="area" class="chart-canvas" role="img" :aria-label="said" :style="{height: tall + 'px'}"></div>
      <p v-if="nothing" class="chart-empty">{{ nothing }}</p>
    </div>`,
  props: { name: String, height: Number, options: Object, points: Object, summary: String, empty: String, units: Object },
  data() {
    return { said: this.summary, nothing: this.empty, tall: this.height, keys: this.keysOf(this.options) };
  },
  created() {
    // Not what Vue watches: thousands of points behind proxies are slow to draw.
    const plain = (value) => Vue.toRaw(value);
    this.raw = Vue.markRaw({ options: plain(this.options), points: { ...plain(this.points) }, units: plain(this.units) || {} });
    this.stale = new Set();
    this.whole = true;
    this.hidden = new Set();
  },
  mounted() {
    window.cutlayer.charts[this.name] = this;
    this.redraw = () => this.chart && this.begin();
    window.addEventListener("cutlayer:theme", this.redraw);
    this.sight = new IntersectionObserver((seen) => seen.some((each) => each.isIntersecting) && this.begin(), {
      rootMargin: "200px",
    });
    this.sight.observe(this.$refs.area);
    this.size = new ResizeObserver(() => {
      if (!this.chart) return;
      this.chart.resize();
      if (this.narrow() !== this.wasNarrow) this.schedule(true);
    });
    this.size.observe(this.$refs.area);
  },
  beforeUnmount() {
    window.removeEventListener("cutlayer:theme", this.redraw);
    this.sight.disconnect();
    this.size.disconnect();
    if (window.cutlayer.charts[this.name] === this) delete window.cutlayer.charts[this.name];
    this.chart?.dispose();
    this.chart = null;
  },
  methods: {
    narrow() {
      return this.$refs.area.clientWidth < 420;
    },
    // The legend is part of the page: it wraps, and can be reached with the keyboard.
    keysOf(options) {
      const wanted = options.legend?.data || [];
      return wanted.map((name) => {
        const colour = options.series.find((each) => each.name === name)?.color || "var(--muted)";
        return { name, colour, on: !this.hidden?.has(name) };
      });
    },
    toggle(name) {
      if (this.hidden.has(name)) this.hidden.delete(name);
      else this.hidden.add(name);
      this.keys = this.keysOf(this.raw.options);
      this.schedule(true);
    },
    begin() {
      this.sight.disconnect();
      this.style = getComputedStyle(document.documentElement);
      this.chart?.dispose();
      this.chart = Vue.markRaw(echarts.init(this.$refs.area, theme(this.style), { renderer: "canvas" }));
      this.chart.on("click", (e) => {
        if (e.componentType === "yAxis") this.$emit("pick", { axis: String(e.value) });
        else this.$emit("pick", { id: e.seriesId || "", value: e.value ?? null });
      });
      this.draw(true);
    },
    schedule(whole) {
      this.whole = this.whole || whole;
      if (this.waiting) return;
      this.waiting = requestAnimationFrame(() => {
        this.waiting = null;
        if (this.chart) this.draw(this.whole);
      });
    },
    draw(whole) {
      const context = { units: this.raw.units, options: this.raw.options, style: this.style, self: this };
      this.wasNarrow = this.narrow();
      if (whole) {
        const made = this.made(context);
        if (made.tooltip && !made.tooltip.formatter && made.tooltip.trigger === "axis") {
          made.tooltip.formatter = window.cutlayer.functions.tooltip(context);
        }
        if (made.series.some((each) => each.id === "spans")) {
          made.tooltip.formatter = window.cutlayer.functions.spanTooltip(context);
        }
        this.chart.setOption(made, { notMerge: true });
      } else {
        const drawn = new Set(this.chart.getOption().series.map((each) => each.id));
        const series = [...this.stale].filter((id) => drawn.has(id)).map((id) => ({ id, data: this.coloured(this.raw.points[id] || [], this.style) }));
        if (series.length) this.chart.setOption({ series });
      }
      this.stale.clear();
      this.whole = false;
    },
    made(context) {
      const { options, points } = this.raw;
      const made = resolved(options, context.style, context);
      made.series = made.series
        .filter((each) => !this.hidden.has(each.name) && !this.hidden.has((each.name || "").replace(/ \(lower edge\)$/, "")))
        .map((each) => ({ ...each, data: this.coloured(points[each.id] || [], context.style) }));
      return made;
    },
    coloured(points, style) {
      if (!points.length || typeof points.find((each) => each && !Array.isArray(each)) !== "object") return points;
      return points.map((each) => (each && !Array.isArray(each) ? resolved(each, style, {}) : each));
    },
    feed(change) {
      const { append, replace, options, units } = change;
      if (options) {
        this.raw.options = options;
        this.keys = this.keysOf(options);
      }
      if (units) this.raw.units = units;
      for (const [id, points] of Object.entries(replace || {})) {
        this.raw.points[id] = points;
        this.stale.add(id);
      }
      for (const [id, points] of Object.entries(append || {})) {
        this.raw.points[id] = (this.raw.points[id] || []).concat(points);
        this.stale.add(id);
      }
      if ("summary" in change) this.said = change.summary;
      if ("empty" in change) this.nothing = change.empty;
      this.schedule(Boolean(options));
    },
    stretch(height) {
      this.tall = height;
    },
    // The picture to take away has its title and legend in it, and the size of the one on the page, but not less.
    picture(title) {
      const style = getComputedStyle(document.documentElement);
      const box = document.createElement("div");
      const wide = Math.max(720, this.$refs.area.clientWidth), tall = this.tall + 74;
      box.style.cssText = `position:fixed;left:-9999px;width:${wide}px;height:${tall}px`;
      document.body.append(box);
      const chart = echarts.init(box, theme(style), { renderer: "canvas", width: wide, height: tall });
      const self = { narrow: () => false, raw: this.raw };
      const made = this.made({ units: this.raw.units, options: this.raw.options, style, self });
      const keys = made.legend?.data?.length;
      made.title = { text: title, left: 12, top: 10, textStyle: { fontSize: 15, color: colours(style, "--ink") } };
      made.legend = { ...made.legend, show: Boolean(keys), type: "plain", top: 38, left: 8, icon: "roundRect" };
      made.grid = { ...made.grid, top: (Number(made.grid.top) || 8) + (keys ? 62 : 38) };
      chart.setOption(made, { notMerge: true });
      const url = chart.getDataURL({ type: "png", pixelRatio: 2, backgroundColor: colours(style, "--surface") });
      chart.dispose();
      box.remove();
      return url;
    },
    save(title, file) {
      window.cutlayer.save(this.picture(title), file);
    },
  },
};
