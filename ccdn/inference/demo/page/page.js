"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const SENT = 640; // pixels of the longer side of a webcam's picture that is searched
  const NOSE = { 68: 30, 98: 54 }; // its tip, by number of points
  const GONE = "ccdn demo does not answer; was it ended?";
  const byId = (id) => document.getElementById(id);
  const [frame, picture, video, overlay] = ["frame", "picture", "video", "overlay"].map(byId);

  let about = null; // what the server answers with, once `ready`
  let shown = null; // the last answer, with the name of its picture
  let round = 0; // counts what the user asked for: answers to an earlier wish are dropped
  let chosen = -1; // the number of the face that is marked

  // ---- what is said ------------------------------------------------------------------------------
  const say = (text) => { byId("said").textContent = text; };
  function complain(text) {
    byId("wrong").textContent = text;
    byId("wrong").hidden = !text;
    if (text) say("");
  }
  const counted = (count) => (count === 1 ? "1 face" : count ? `${count} faces` : "No face found");

  // ---- asking the server -------------------------------------------------------------------------
  async function search(blob, query = "") {
    let answer;
    try {
      await ready;
      answer = await fetch(`faces${query}`, { method: "POST", body: blob, headers: { "Content-Type": "application/octet-stream" } });
    } catch {
      throw new Error(GONE);
    }
    const found = await answer.json().catch(() => ({ error: `ccdn demo answered ${answer.status}; its terminal tells more` }));
    if (!answer.ok) throw new Error(found.error);
    return found;
  }

  // A face of a film keeps its number while others come and go.
  const numberOf = (face, index) => (face.id === undefined ? index : face.id);

  // ---- drawing -----------------------------------------------------------------------------------
  function make(parent, name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    return parent.appendChild(node);
  }

  // The first pixel's centre is 0 0 in landmarks, and 0.5 0.5 in a drawing.
  const at = ([x, y]) => [x + 0.5, y + 0.5];

  function drawFace(face, index) {
    const group = make(overlay, "g", { class: "face", "data-face": index });
    const points = face.landmarks.map(at);
    const [x0, y0, x1, y1] = [...at(face.box.slice(0, 2)), ...at(face.box.slice(2))];
    const size = Math.max(x1 - x0, y1 - y0);
    const radius = size / 110;
    const framed = make(group, "g", { class: "frame" });
    const box = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
    make(framed, "rect", { ...box, class: "shade" });
    make(framed, "rect", { ...box, class: "box" });
    make(framed, "text", { x: x0 + size / 40, y: Math.max(y0 + size / 8, size / 8), "font-size": size / 9, class: "name" }, numberOf(face, index) + 1);
    if (face.spread)
      points.forEach(([cx, cy], i) => make(group, "circle", { cx, cy, r: face.spread[i], class: "spread" }));
    for (const part of about.parts) {
      const d = `M${part.map((i) => points[i].join(" ")).join(" L")}`;
      make(group, "path", { d, class: "line shade" });
      make(group, "path", { d, class: "line lines" });
    }
    points.forEach(([cx, cy], i) => {
      make(group, "circle", { cx, cy, r: radius, class: "dots" });
      make(group, "text", { x: cx + radius, y: cy - radius, "font-size": size / 36, class: "number" }, i);
    });
    if (face.head_pose && NOSE[points.length] !== undefined) {
      const [yaw, pitch, roll] = ["yaw", "pitch", "roll"].map((name) => (face.head_pose[name] * Math.PI) / 180);
      const [right, down] = [Math.sin(yaw) * Math.cos(pitch), -Math.sin(pitch)];
      const [x, y] = points[NOSE[points.length]];
      const x2 = x + 0.9 * size * (right * Math.cos(roll) - down * Math.sin(roll));
      const y2 = y + 0.9 * size * (right * Math.sin(roll) + down * Math.cos(roll));
      const nose = make(group, "g", { class: "nose" });
      make(nose, "line", { x1: x, y1: y, x2, y2, class: "shade" });
      make(nose, "line", { x1: x, y1: y, x2, y2, class: "direction" });
    }
  }

  function draw(found) {
    overlay.setAttribute("viewBox", `0 0 ${found.width} ${found.height}`);
    frame.style.setProperty("--ratio", found.width / found.height);
    overlay.replaceChildren();
    found.faces.forEach(drawFace);
    overlay.setAttribute("aria-label", counted(found.faces.length));
    mark(chosen);
  }

  // ---- the list of faces -------------------------------------------------------------------------
  const number = (value, digits) => value.toFixed(digits).replace("-", "\u2212");

  function rows(face) {
    const found = [];
    const parts = [["Detector's score", face.detection_score], ["Landmarks' score", face.landmark_score]];
    for (const [name, value] of parts) if (value !== undefined) found.push([name, number(value, 2)]);
    if (face.spread) {
      const mean = face.spread.reduce((a, b) => a + b, 0) / face.spread.length;
      const width = 100 * mean / (face.box[2] - face.box[0]);
      found.push(["Spread", `${number(mean, 1)} px, ${number(width, 1)} % of the face`]);
    }
    if (face.head_pose)
      for (const name of ["yaw", "pitch", "roll"])
        found.push([name[0].toUpperCase() + name.slice(1), `${number(face.head_pose[name], 0)}\u00b0`]);
    if (face.eye_aspect_ratio) found.push(["Eyes", face.eye_aspect_ratio.map((v) => number(v, 2)).join(", ")]);
    if (face.mouth_aspect_ratio !== undefined) found.push(["Mouth", number(face.mouth_aspect_ratio, 2)]);
    return found;
  }

  function element(name, attributes, ...children) {
    const node = Object.assign(document.createElement(name), attributes);
    node.append(...children);
    return node;
  }

  // The card of a number stays: a frame of the webcam may come between pressing a button and letting go.
  function card(face, index) {
    const own = numberOf(face, index);
    const node = [...byId("faces").children].find((old) => old.number === own) || emptyCard(own);
    node.querySelector("meter").value = face.score;
    node.querySelector("span > span").textContent = ` score ${number(face.score, 2)}`;
    const values = rows(face).flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })]);
    node.querySelector("dl").replaceChildren(...values);
    return node;
  }

  function emptyCard(own) {
    const title = element("button", { type: "button", textContent: `Face ${own + 1}` });
    title.addEventListener("click", () => mark(own === chosen ? -1 : own));
    const meter = element("meter", { min: 0, max: 1 });
    meter.setAttribute("aria-hidden", "true");
    const head = element("div", { className: "head" }, element("h2", {}, title), element("span", {}, meter, element("span", {})));
    return element("article", { className: "face", number: own }, head, element("dl", {}));
  }

  function mark(own) {
    chosen = own;
    shown.faces.forEach((face, i) => {
      const isIt = numberOf(face, i) === own;
      for (const node of [overlay.children[i], byId("faces").children[i]]) node.classList.toggle("chosen", isIt);
      byId("faces").children[i].querySelector("button").setAttribute("aria-pressed", isIt);
    });
  }

  function show(found, name) {
    shown = { picture: name, ...found };
    byId("found").hidden = false;
    const list = byId("faces"), cards = found.faces.map(card), focused = document.activeElement;
    if (cards.length !== list.children.length || cards.some((node, i) => node !== list.children[i])) {
      list.replaceChildren(...cards);
      if (list.contains(focused)) focused.focus();
    }
    byId("save").hidden = !found.faces.length;
    draw(found);
  }

  function clear() {
    shown = null;
    chosen = -1;
    overlay.replaceChildren();
    byId("faces").replaceChildren();
    overlay.setAttribute("aria-label", "No face");
    byId("found").hidden = true;
  }

  function fill(media) {
    byId("empty").hidden = true;
    byId("stage").classList.add("filled");
    frame.hidden = false;
    picture.hidden = media !== picture;
    video.hidden = media !== video;
  }

  // ---- pictures ----------------------------------------------------------------------------------
  async function look(blob, name) {
    stopWebcam();
    complain("");
    if (about && blob.size > about.most_bytes) {
      complain(`${name}: the file is larger than ${about.most_bytes >> 20} MB`);
      return;
    }
    const own = ++round;
    say(`Searching ${name} \u2026`);
    const url = URL.createObjectURL(blob);
    const next = new Image();
    next.src = url;
    const visible = next.decode().then(() => true, () => false);
    frame.classList.add("busy");
    try {
      const started = performance.now();
      const found = await search(blob);
      const seconds = (performance.now() - started) / 1000;
      const seen = await visible;
      if (own !== round) {
        URL.revokeObjectURL(url);
        return;
      }
      clear();
      URL.revokeObjectURL(picture.src);
      if (seen) picture.src = url; else picture.removeAttribute("src");
      picture.alt = name;
      fill(picture);
      show(found, name);
      say(`${name}: ${counted(found.faces.length)}, ${found.width} \u00d7 ${found.height} pixels, ${seconds.toFixed(2)} s.${seen ? "" : " This browser cannot show the format; the faces are drawn without it."}`);
    } catch (error) {
      URL.revokeObjectURL(url);
      if (own === round) complain(`${name}: ${error.message}`);
    } finally {
      if (own === round) frame.classList.remove("busy");
    }
  }

  async function example() {
    const seed = Math.floor(Math.random() * 1e9);
    try {
      const answer = await fetch(`example?seed=${seed}`);
      await look(await answer.blob(), `generated-${seed}.png`);
    } catch {
      complain(GONE);
    }
  }

  // ---- the webcam --------------------------------------------------------------------------------
  const REFUSALS = {
    NotAllowedError: "the browser was not allowed to use it",
    NotFoundError: "none was found",
    NotReadableError: "another program may be using it",
  };

  function stopWebcam() {
    const stream = video.srcObject;
    if (stream) for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
    byId("webcam").textContent = "Use the webcam";
    byId("webcam").setAttribute("aria-pressed", "false");
  }

  async function startWebcam() {
    complain("");
    const own = ++round;
    if (!navigator.mediaDevices) {
      complain("Webcam: this browser gives it only to pages of localhost and https");
      return;
    }
    say("Waiting for the webcam \u2026");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } }, audio: false });
    } catch (error) {
      if (own === round) complain(`Webcam: ${REFUSALS[error.name] || error.message}`);
      return;
    }
    if (own !== round) {
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    byId("webcam").textContent = "Stop the webcam";
    byId("webcam").setAttribute("aria-pressed", "true");
    stream.getVideoTracks()[0].addEventListener("ended", () => {
      if (own !== round) return;
      stopWebcam();
      complain("Webcam: it gives no more pictures; was it unplugged?");
    });
    clear();
    video.srcObject = stream;
    await video.play();
    fill(video);
    await watch(own);
  }

  async function watch(own) {
    const canvas = document.createElement("canvas");
    const film = [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(36)).join("-");
    let last = performance.now(), rate = 0, told = -Infinity, count = -1;
    while (own === round && video.srcObject) {
      if (document.hidden) await new Promise((wake) => document.addEventListener("visibilitychange", wake, { once: true }));
      const scale = Math.min(1, SENT / Math.max(video.videoWidth, video.videoHeight));
      canvas.width = Math.round(video.videoWidth * scale);
      canvas.height = Math.round(video.videoHeight * scale);
      const time = (performance.now() / 1000).toFixed(6);
      canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
      const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
      try {
        const found = await search(blob, `?film=${film}&time=${time}`);
        if (own !== round || !video.srcObject) return;
        show(found, "webcam");
        const now = performance.now();
        rate = rate ? 0.8 * rate + 200 / (now - last) : 1000 / (now - last);
        last = now;
        if (now - told > 5000 || count !== found.faces.length) { // a screen reader reads it out
          [told, count] = [now, found.faces.length];
          say(`Webcam: ${counted(count)}, ${rate.toFixed(1)} pictures a second.`);
        }
      } catch (error) {
        if (own === round) {
          stopWebcam();
          complain(`Webcam: ${error.message}`);
        }
        return;
      }
    }
  }

  // ---- what the user does ------------------------------------------------------------------------
  byId("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) look(file, file.name);
    event.target.value = ""; // so that the same file may be chosen again
  });
  byId("example").addEventListener("click", example);
  byId("webcam").addEventListener("click", () => {
    if (!video.srcObject) { startWebcam(); return; }
    round++;
    stopWebcam();
    video.hidden = true;
    frame.hidden = true;
    byId("empty").hidden = false;
    byId("stage").classList.remove("filled");
    clear();
    say("The webcam is off.");
  });
  addEventListener("pagehide", stopWebcam);

  const pictureOf = (data) => [...data.files].find((file) => file.type.startsWith("image/")) || data.files[0];
  addEventListener("paste", (event) => {
    const file = event.clipboardData && pictureOf(event.clipboardData);
    if (file) look(file, file.name || "pasted picture");
    else complain("Paste: there is no picture in the clipboard");
  });
  let inside = 0; // elements that a drag is in: it enters one before it leaves the other
  const over = (change) => {
    inside = change === 0 ? 0 : inside + change;
    document.body.classList.toggle("over", inside > 0);
  };
  addEventListener("dragenter", () => over(1));
  addEventListener("dragleave", () => over(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    over(0);
    const file = pictureOf(event.dataTransfer);
    if (file) look(file, file.name);
    else complain("Drop: that is no file; save the picture first, then drop its file");
  });

  const layers = () => {
    for (const box of document.querySelectorAll("#layers input"))
      overlay.classList.toggle(`layer-off-${box.value}`, !box.checked);
  };
  byId("layers").addEventListener("change", layers);
  layers();

  byId("save").addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([JSON.stringify(shown, null, 1)], { type: "application/json" }));
    const name = `${shown.picture.replace(/\.[^.]*$/, "")}.json`;
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });

  const ready = fetch("about").then((answer) => answer.json()).then((found) => {
    about = found;
    byId("about").textContent = `ccdn ${found.version}. Faces are found by ${found.detector}, ${found.points} points each; those that score less than ${found.min_score} are left out.`;
  });
  ready.catch(() => complain(GONE));
})();
