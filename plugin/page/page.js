"use strict";
/* Asks for "status" every two seconds and shows the answer. Nothing but text goes into the page. */
(() => {
  const EVERY_MS = 2000;
  const PATIENCE_MS = 5000;
  const $ = (id) => document.getElementById(id);
  let shown = null; /* the last answer */
  let shownAt = 0;
  let silentSince = 0;

  /* --- words ------------------------------------------------------------------------------ */

  const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

  const count = (n) => grouped.format(n);

  const short = (n) => {
    for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
      if (n >= limit) {
        const size = unit === "k" ? 1e3 : limit;
        return (n / size).toFixed(n / size < 100 ? 1 : 0) + " " + unit;
      }
    }
    return n > 0 && n < 10 ? String(Math.round(n * 10) / 10) : count(n);
  };

  const bytes = (n) => {
    const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let i = 0;
    while (n >= 1024 && i < units.length - 1) {
      n /= 1024;
      i++;
    }
    return (i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)) + " " + units[i];
  };

  const duration = (s) => {
    if (s < 1) return "under 1 s";
    if (s < 120) return Math.floor(s) + " s";
    if (s < 7200) return Math.floor(s / 60) + " min";
    if (s < 172800) return Math.floor(s / 3600) + " h " + Math.floor((s % 3600) / 60) + " min";
    return Math.floor(s / 86400) + " days " + Math.floor((s % 86400) / 3600) + " h";
  };

  const clock = (t) => {
    const then = new Date(t * 1000);
    const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
    const today = new Date().toDateString() === then.toDateString();
    return today ? time : then.toLocaleDateString([], { day: "numeric", month: "short" }) + ", " + time;
  };

  const since = (now, t) =>
    now - t < 2 ? "Just now, at " + clock(t) + "." : "For " + duration(now - t) + ", since " + clock(t) + ".";

  const times = (n, one, many) => count(n) + " " + (n === 1 ? one : many);

  /* --- elements --------------------------------------------------------------------------- */

  /* Only what has changed is touched, so that nobody is read the same thing again. */
  const say = (id, text) => {
    const element = $(id);
    if (element.textContent !== text) element.textContent = text;
  };

  const figure = (id, number, unit) => {
    const element = $(id);
    const text = number + (unit ? " " + unit : "");
    if (element.dataset.text === text) return;
    element.dataset.text = text;
    element.replaceChildren(number);
    if (unit) element.append(make("small", unit));
  };

  const make = (name, text, kind) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };

  /* On a narrow screen each cell stands below the other, with the heading of its column. */
  const row = (body, cells) => {
    const headings = body.parentElement.querySelectorAll("thead th");
    const line = make("tr");
    line.setAttribute("role", "row");
    cells.forEach(([text, kind], i) => {
      const cell = make(i === 0 ? "th" : "td", text, kind);
      if (i === 0) cell.scope = "row";
      cell.setAttribute("role", i === 0 ? "rowheader" : "cell");
      cell.dataset.label = headings[i].textContent;
      line.append(cell);
    });
    return line;
  };

  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };

  /* --- parts ------------------------------------------------------------------------------ */

  const showVerdict = (s) => {
    document.body.dataset.level = s.level;
    document.body.classList.remove("stale");
    document.title = s.title + " – Metamorphosis";
    say("title", s.title);
    say("text", s.text);
    say("since", since(s.time, s.since));
    say("version", s.version + " · running for " + duration(s.time - s.started));
  };

  const showProblems = (s) => {
    const section = $("problems");
    section.hidden = s.problems.length === 0;
    const before = new Map([...section.children].map((card) => [card.dataset.id, card]));
    s.problems.forEach((problem, i) => {
      let card = before.get(problem.id);
      if (!card) {
        card = make("article", undefined, "problem " + problem.level);
        card.dataset.id = problem.id;
        const heading = make("h2");
        heading.append(make("span", problem.level, "tag"), make("span", problem.title));
        card.append(heading, make("p", "", "text"), make("p", problem.advice, "do"), make("p", "", "when"));
      }
      before.delete(problem.id);
      if (section.children[i] !== card) section.insertBefore(card, section.children[i] || null);
      const [, text, advice, when] = card.children;
      if (text.textContent !== problem.text) text.textContent = problem.text;
      if (advice.textContent !== problem.advice) advice.textContent = problem.advice;
      when.textContent = since(s.time, problem.since);
    });
    before.forEach((card) => card.remove());
  };

  const showNow = (s) => {
    figure("in", short(s.flow.received_per_second), "a second");
    say("in-more", times(s.flow.received, "message", "messages") + " in all");
    figure("out", short(s.flow.delivered_per_second), "a second");
    say("out-more", count(s.flow.delivered) + " in all");
    figure("waiting", short(s.spool.messages), s.spool.messages === 1 ? "message" : "messages");
    say("waiting-more", bytes(s.spool.bytes));
    figure("oldest", s.spool.oldest_seconds === null ? "none" : duration(s.spool.oldest_seconds), "");
    say("oldest-more", s.spool.oldest_seconds === null ? "nothing waits" : "how far Kafka is behind");
  };

  const showSpool = (s) => {
    const used = Math.min(100, (100 * s.spool.bytes) / s.spool.limit_bytes);
    const percent = used > 0 && used < 1 ? "under 1" : String(Math.floor(used));
    say("spool-label", "Spool " + percent + " % used");
    const left = s.spool.seconds_to_full;
    say("spool-left", s.spool.full ? "full" : left === null ? "not growing" : "full in about " + duration(left));
    $("bar-fill").style.width = used.toFixed(1) + "%";
    $("bar").className = "bar" + (used >= 75 || s.spool.full ? " full" : used >= 50 ? " half" : "");
    $("bar").setAttribute("aria-valuenow", used.toFixed(0));
    $("bar").setAttribute("aria-valuetext", percent + " % used");
    let text = bytes(s.spool.bytes) + " of " + bytes(s.spool.limit_bytes);
    text += s.spool.on_disk
      ? " on disk; the file system has room for " + bytes(s.spool.free_bytes) + " more."
      : " in memory: what waits is lost when the broker ends.";
    if (!s.spool.drop_oldest) text += " From the dashed line on, /readyz answers 503.";
    say("spool-text", text);
  };

  const showTotals = (s) => {
    const tile = (name, n, kind, more) => {
      figure(name, count(n), "");
      $(name + "-tile").className = n === 0 ? "" : kind;
      say(name + "-more", more);
    };
    tile("refused", s.flow.refused, "odd", s.flow.refused ? "their publishers still have them" : "nobody");
    tile("dropped", s.flow.dropped, "bad", s.flow.dropped ? reasons(s.flow.dropped_by_reason) : "nothing");
    tile("dead", s.flow.dead_lettered, "odd", s.flow.dead_lettered ? "Kafka will never take them" : "none");
    tile("ledger", s.flow.difference, "", s.flow.difference ? "messages in passing" : "the ledger adds up");
  };

  const reasons = (by) => {
    const words = {
      qos0_spool_full: "QoS 0, spool full",
      drop_newest: "when_full drop_newest",
      drop_oldest: "when_full drop_oldest",
      too_large: "too large",
      spool_io: "the disk failed",
      lost: "damaged on the disk",
    };
    return Object.entries(by).filter(([, n]) => n > 0).map(([reason]) => words[reason] || reason).join(", ");
  };

  /* The newest value is at the right edge; a plugin that has just been started has only a few. */
  const WIDTH = 600;
  const STEP = 10;
  const left = (values) => WIDTH - (values.length - 1) * STEP;
  const line = (values, max) => values
    .map((v, i) => (i ? "L" : "M") + (left(values) + i * STEP) + " " + (118 - (114 * v) / max).toFixed(1))
    .join("");

  const draw = (id, curves, label) => {
    const chart = $(id);
    const max = Math.max(1e-9, ...curves.flatMap(([, values]) => values));
    chart.setAttribute("aria-label", label);
    chart.replaceChildren(svg("path", { class: "axis", d: "M0 118H600" }));
    for (const [kind, values] of curves) {
      if (values.length < 2) continue;
      const path = line(values, max);
      if (kind === "spool") chart.append(svg("path", { class: "area", d: path + "L" + WIDTH + " 118L" + left(values) + " 118Z" }));
      chart.append(svg("path", { class: kind, d: path }));
    }
  };

  const showHistory = (s) => {
    const received = [...s.history.received_per_second, s.flow.received_per_second];
    const delivered = [...s.history.delivered_per_second, s.flow.delivered_per_second];
    const spool = [...s.history.spool_bytes, s.spool.bytes];
    const flow = short(Math.max(...received, ...delivered));
    const fill = bytes(Math.max(...spool));
    say("flow-max", "· at most " + flow);
    say("fill-max", "· at most " + fill);
    draw("flow", [["in", received], ["out", delivered]],
      "Messages a second in and out over the last ten minutes, at most " + flow);
    draw("fill", [["spool", spool]], "Bytes in the spool over the last ten minutes, at most " + fill);
  };

  const ago = (s, t) => (t === null ? "never" : duration(Math.max(0, s.time - t)) + " ago");
  const until = (s, t) => (t === null ? "–" : t <= s.time ? "now" : "in " + duration(t - s.time));

  const doing = {
    running: ["sending", ""],
    draining: ["waiting for answers", "state-odd"],
    single: ["sending one by one", "state-odd"],
    parked: ["Kafka refuses the topic", "state-bad"],
    restarting: ["making a new producer", "state-odd"],
    stopped: ["stopped", "state-bad"],
  };

  const workerWords = (w) => {
    if (!w.alive) return ["does not move", "state-bad"];
    if (!w.kafka_reached && w.state === "running") return ["waiting for Kafka", "state-odd"];
    return doing[w.state] || [w.state, ""];
  };

  const showWorkers = (s) => {
    $("workers").replaceChildren(...s.workers.map((w) => {
      const [words, kind] = workerWords(w);
      return row($("workers"), [
        [String(w.worker)],
        w.kafka_reached ? ["reached", "state-good"] : ["not reached", "state-bad"],
        [w.next_try === null ? words : words + "; tries again " + until(s, w.next_try), kind],
        [short(w.delivered_per_second), "n"],
        [count(w.in_flight), "n"],
        [w.oldest_seconds === null ? "–" : duration(w.oldest_seconds), "n"],
        [ago(s, w.last_delivery), "n"],
      ]);
    }));
  };

  const showTopics = (s) => {
    const reached = s.workers.some((w) => w.kafka_reached);
    const free = reached ? ["not refused", "state-good"] : ["waits for Kafka", "state-odd"];
    $("topics").replaceChildren(...s.topics.map((t) => row($("topics"), [
      [t.kafka_topic, "wrap"],
      t.parked ? ["parked: " + t.reason, "wrap state-bad"] : free,
      [short(t.delivered_per_second), "n"],
      [count(t.delivered), "n"],
      [t.parked ? count(t.messages) : "–", "n"],
      [t.oldest_seconds === null ? "–" : duration(t.oldest_seconds), "n"],
      [t.parked ? (t.next_try === null ? "soon" : until(s, t.next_try)) : "–", "n"],
    ])));
    say("topics-more", s.topics_left_out > 0 ? "and " + count(s.topics_left_out) + " more that are not refused" : "");
  };

  const howMany = (e) => (e.id === "disk" ? times(e.count, "error", "errors") : times(e.count, "message", "messages"));

  const showEvents = (s) => {
    const items = s.events.map((e) => {
      const item = make("li");
      const end = e.ended === null ? "still so" : "for " + duration(Math.max(0, e.ended - e.began));
      item.append(make("p", e.title + (e.count > 0 ? ": " + howMany(e) : ""), "title"),
        make("p", clock(e.began) + ", " + end + ". " + e.advice, "when"));
      return item;
    });
    if (items.length === 0) items.push(make("li", "Nothing since the start."));
    $("events").replaceChildren(...items);
  };

  const show = (s) => {
    shown = s;
    shownAt = Date.now();
    silentSince = 0;
    showVerdict(s);
    showProblems(s);
    showNow(s);
    showSpool(s);
    showTotals(s);
    showHistory(s);
    showWorkers(s);
    showTopics(s);
    showEvents(s);
    say("asked", "As of " + clock(shownAt / 1000) + ", asked every 2 s.");
  };

  const showSilence = () => {
    silentSince = silentSince || Date.now();
    document.body.dataset.level = "none";
    document.body.classList.add("stale");
    document.title = "No answer – Metamorphosis";
    say("title", "The plugin does not answer");
    say("text", "The broker is stopped or started again, or this page cannot reach its health port." +
      (shown ? " What is below is old." : ""));
    say("since", since(Date.now() / 1000, silentSince / 1000));
    if (shown) say("asked", "As of " + clock(shownAt / 1000) + ".");
  };

  /* --- asking ----------------------------------------------------------------------------- */

  const fetched = async () => {
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), PATIENCE_MS);
    try {
      const answer = await fetch("status", { signal: stop.signal, cache: "no-store" });
      return answer.ok ? await answer.json() : null;
    } catch {
      return null; /* refused, cut off, too slow, or no JSON */
    } finally {
      clearTimeout(timer);
    }
  };

  const ask = async () => {
    const status = await fetched();
    setTimeout(ask, EVERY_MS);
    if (status) show(status);
    else showSilence();
  };
  ask();
})();
