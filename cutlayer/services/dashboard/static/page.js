// What the page needs beside NiceGUI: units, times in the viewer's zone, the theme.  No request leaves this host.
(() => {
  const number = (value) => {
    if (value === null || value === undefined || !isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size >= 1e5) return value.toExponential(2);
    if (size >= 100 || Number.isInteger(value)) return String(Math.round(value * 10) / 10);
    return String(Number(value.toPrecision(4)));
  };
  const share = (value, digits = 1) => (value === null || !isFinite(value) ? "–" : `${(100 * value).toFixed(digits)}\u202f%`);
  const count = (value) => {
    for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= limit) return `${Number((value / limit).toPrecision(3))}\u202f${unit}`;
    }
    return number(value);
  };
  const written = (value, unit) => {
    if (unit === "share") return share(value);
    if (!unit || unit === "number") return number(value);
    return `${number(value)} ${unit}`;
  };
  const seconds = (value) => {
    if (value === 0) return "0 s";
    if (value < 0.9995) return `${Number((1000 * value).toPrecision(3))} ms`;
    if (value < 59.95) return `${Number(value.toPrecision(3))} s`;
    const whole = Math.round(value);
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
    const minutes = Math.round(value / 60);
    if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
    return `${Math.round(minutes / 1440)} days`;
  };
  const clock = (time, precise = true) =>
    new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", ...(precise ? { second: "2-digit" } : {}) });

  // Tooltips are elements, and everything in them is text.
  const el = (tag, style, text) => {
    const made = document.createElement(tag);
    if (style) made.style.cssText = style;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const tip = (title, rows) => {
    const box = el("div", "max-width:300px");
    box.append(el("div", "font-weight:600;margin-bottom:3px;overflow-wrap:anywhere;white-space:normal", title));
    for (const [colour, name, value] of rows) {
      const row = el("div", "display:flex;gap:8px;align-items:center");
      row.append(el("span", `flex:none;width:9px;height:9px;border-radius:2px;background:${colour}`));
      row.append(el("span", "flex:1;overflow:hidden;text-overflow:ellipsis;max-width:190px", name));
      row.append(el("span", "font-variant-numeric:tabular-nums;padding-left:8px", value));
      box.append(row);
    }
    return box;
  };

  const grouped = (value) => String(Number(value.toPrecision(6))).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const grain = (min, max) => {
    const span = max - min;
    return span > 0.5 ? 0.2 : span > 0.2 ? 0.1 : span > 0.08 ? 0.05 : 0.02;
  };
  const short = (text, context) => {
    const most = context.self.narrow() ? 14 : 26;
    return text.length > most ? `${text.slice(0, most - 6)}…${text.slice(-5)}` : text;
  };

  const functions = {
    share: () => (value) => `${Number((100 * value).toFixed(1))}\u202f%`,
    shareLabel: () => (each) => share(each.value, 1),
    shareMin: () => ({ min, max }) => Math.max(0, Math.floor((min - 0.003) / grain(min, max)) * grain(min, max)),
    shareMax: () => ({ min, max }) => Math.min(1, Math.ceil((max + 0.003) / grain(min, max)) * grain(min, max)),
    whole: () => (value) => (Number.isInteger(value) ? grouped(value) : ""),
    grouped: () => grouped,
    roundsMax: () => ({ max }) => Math.max(2, max),
    barMin: () => ({ min }) => min - 0.6,
    barMax: () => ({ max }) => max + 0.6,
    count: () => (each) => String(each.value[3]),
    count3: () => (value) => count(value),
    clock: () => (value) => clock(value),
    client: (context) => (value) => short(value, context),
    labelWidth: (context) => {
      const canvas = (functions.canvas = functions.canvas || document.createElement("canvas").getContext("2d"));
      canvas.font = `11px ${context.style.getPropertyValue("--font")}`;
      const wide = (context.options.yAxis.data || []).map((each) => canvas.measureText(short(each, context)).width);
      return Math.ceil(Math.max(20, ...wide)) + 16;
    },
    namedWidth: (context) => functions.labelWidth(context) + 22,
    nameGap: (context) => functions.labelWidth(context) - 2,
    tooltip: (context) => (found) => {
      const list = (Array.isArray(found) ? found : [found]).filter((each) => !/-low$/.test(each.seriesId));
      list.sort((a, b) => /^client-/.test(a.seriesId) - /^client-/.test(b.seriesId)); // the run before its clients
      if (!list.length) return "";
      const axis = context.options.xAxis;
      const first = list[0];
      const at = axis.type === "category" || context.options.yAxis.type === "category" ? first.name
        : `${(axis.name || "").replace(/ \(.*/, "")} ${number(first.axisValue ?? first.value[0])}`
          + ((axis.name || "").match(/\((.*)\)/) ? ` ${axis.name.match(/\((.*)\)/)[1]}` : "");
      const rows = list.slice(0, 14).map((each) => {
        const value = Array.isArray(each.value) ? each.value[1] : each.value;
        const unit = context.units[each.seriesId] || context.units[each.seriesId.replace(/-high$/, "-low")];
        const low = context.self.raw.points[each.seriesId.replace(/-high$/, "-low")];
        if (/-high$/.test(each.seriesId) && low && low[each.dataIndex]) {
          const from = low[each.dataIndex][1];
          return [each.color, each.seriesName, `${written(from, unit)} … ${written(from + value, unit)}`];
        }
        return [each.color, each.seriesName, written(value, unit)];
      });
      if (list.length > 14) rows.push(["transparent", `and ${list.length - 14} more`, ""]);
      return tip(at, rows);
    },
    confusion: (context) => (each) => {
      const [x, y, part, times] = each.value;
      const { xAxis, yAxis } = context.options;
      return tip(`${yAxis.data[y]} taken for ${xAxis.data[x]}`, [[each.color, `${times} times`, share(part)]]);
    },
    spanTooltip: (context) => (each) => {
      const [row, from, to, state, round] = each.value;
      const series = context.options.series[0];
      return tip(`${context.options.yAxis.data[row]} · round ${round}`, [
        [colourOf(context, state), series.states[state], seconds((to - from) / 1000)],
        ["transparent", "from", clock(from)],
      ]);
    },
    span: (context) => (params, api) => {
      const row = api.value(0), state = api.value(3);
      const [x0, y] = api.coord([api.value(1), row]);
      const [x1] = api.coord([api.value(2), row]);
      const all = api.size([0, 1])[1];
      // States differ in height too: who works is tall, who waits is flat.
      const height = Math.min(20, all * 0.74) * [1, 0.5, 0.72, 0.72, 0.16, 1, 1, 1][state];
      const area = params.coordSys;
      const shape = echartsClip(
        { x: x0, y: y - height / 2, width: Math.max(x1 - x0, 1), height },
        { x: area.x, y: area.y, width: area.width, height: area.height },
      );
      return shape && {
        type: "rect", shape, style: {
          fill: colourOf(context, state),
          ...(state >= 5 ? { stroke: context.style.getPropertyValue("--ink").trim(), lineWidth: 1 } : {}),
        },
      };
    },
  };
  const colourOf = (context, state) =>
    context.style.getPropertyValue(context.options.series[0].colours[state].slice(4, -1)).trim();
  const echartsClip = (one, area) => {
    const x = Math.max(one.x, area.x), right = Math.min(one.x + one.width, area.x + area.width);
    return right <= x ? null : { x, y: one.y, width: right - x, height: one.height };
  };

  // --- times: <time data-at="seconds since 1970" data-as="clock|ago|moment|for"> ------------------------------------
  let offset = 0; // of this clock to the server's, seconds
  const now = () => Date.now() / 1000 + offset;
  const said = (node) => {
    const at = Number(node.dataset.at), how = node.dataset.as;
    if (!at) return;
    const date = new Date(1000 * at);
    node.dateTime = date.toISOString();
    node.title = date.toLocaleString();
    let text = clock(1000 * at);
    if (how === "ago") {
      const since = Math.max(0, now() - at);
      text = since < 5 ? "just now" : since < 86400 * 2 ? `${seconds(Math.round(since))} ago` : date.toLocaleDateString();
    } else if (how === "for") text = seconds(Math.max(0, Math.round(now() - at)));
    else if (how === "moment") {
      const today = new Date().toDateString() === date.toDateString();
      text = today ? clock(1000 * at) : date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    }
    if (node.textContent !== text) node.textContent = text;
  };
  const all = () => document.querySelectorAll("time[data-at]").forEach(said);
  setInterval(all, 1000);
  new MutationObserver((changes) => {
    if (changes.some((each) => each.target.nodeName !== "TIME")) all();
  }).observe(document.documentElement, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-at"] });

  // --- theme: the system's unless chosen; the choice stays in this browser ------------------------------------------
  const media = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => localStorage.getItem("cutlayer-theme") || "system";
  const apply = () => {
    const choice = chosen();
    const dark = choice === "dark" || (choice === "system" && media.matches);
    const before = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    document.documentElement.dataset.choice = choice;
    if (before !== document.documentElement.dataset.theme) window.dispatchEvent(new Event("cutlayer:theme"));
    const button = document.getElementById("theme");
    if (button) button.setAttribute("aria-label", `Theme: ${choice}. Change it`);
    if (button) button.title = `Theme: ${choice}`;
  };
  media.addEventListener("change", apply);
  document.addEventListener("click", (e) => {
    if (!e.target.closest?.("#theme")) return;
    const next = { system: "light", light: "dark", dark: "system" }[chosen()];
    localStorage.setItem("cutlayer-theme", next);
    apply();
  });

  window.cutlayer = {
    functions, charts: {}, seconds,
    theme: apply,
    clock: (server) => (offset = server - Date.now() / 1000),
    async copy(text, button) {
      const field = document.createElement("textarea"); // also works where there is no TLS
      field.value = text;
      document.body.append(field);
      field.select();
      const done = document.execCommand("copy");
      field.remove();
      const before = button.textContent;
      button.textContent = done ? "Copied" : "Copy it from the address bar";
      setTimeout(() => (button.textContent = before), 2500);
    },
    ask: (id) => document.getElementById(id).showModal(),
    save(url, file) {
      const link = document.createElement("a");
      link.href = url;
      link.download = file;
      link.click();
    },
    // What a chart shows, for tests and the curious: the points of a series.
    points: (chart, series) => JSON.parse(JSON.stringify(window.cutlayer.charts[chart].raw.points[series] || [])),
  };
  // A page whose session is over (or whose dashboard was started anew) cannot connect: it goes to the sign-in.
  const watch = setInterval(() => {
    if (!window.socket) return;
    clearInterval(watch);
    window.socket.on("connect_error", async () => {
      const answer = await fetch("/alive", { cache: "no-store" }).catch(() => null);
      if (answer && answer.status === 401) location.reload();
    });
  }, 200);

  apply();
  document.addEventListener("DOMContentLoaded", () => { apply(); all(); });
})();
