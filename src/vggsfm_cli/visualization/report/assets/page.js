/* The script of the report: draws what the page carries as JSON in #data. Uses three.js as THREE; no build step.
 *
 * One state, and parts that draw it: the scene (3D), the picture, the film of images, the charts, the tables. A part
 * changes the state through choose...(), which tells all parts. Positions are stored pixels and world units.
 */
"use strict";

(() => {
  const MODELS = JSON.parse(document.getElementById("data").textContent).models;
  const $ = (id) => document.getElementById(id);
  const CAMERA = "#ff9a3c", CHOSEN = "#5ad1ff", HOVERED = "#ffe08a";
  const RAMPS = {
    error: ["#35c9a5", "#f3cf4e", "#f0683f"],
    length: ["#3b4cc0", "#3fa7c9", "#7fd34e", "#fde725"],
    angle: ["#3b4cc0", "#3fa7c9", "#7fd34e", "#fde725"],
    count: ["#1b2130", "#244f7d", "#2f9db4", "#8fdc8c", "#fbf3a0"],
  };
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // ---------------------------------------------------------------- numbers

  const decode = (text, Type) => new Type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const number = (value, digits = 0) => value === null || !Number.isFinite(value) ? "–"
    : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const hex = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16) / 255);

  function ramp(name) {
    const stops = RAMPS[name].map(hex);
    return (share) => {
      const place = clamp(Number.isFinite(share) ? share : 0, 0, 1) * (stops.length - 1);
      const i = Math.min(Math.floor(place), stops.length - 2);
      return stops[i].map((value, c) => value + (place - i) * (stops[i + 1][c] - value));
    };
  }
  const css = (rgb) => `rgb(${rgb.map((value) => Math.round(255 * value)).join(" ")})`;

  function quantile(values, share) {
    const known = Array.from(values).filter(Number.isFinite).sort((a, b) => a - b);
    return known.length ? known[Math.min(known.length - 1, Math.floor(share * known.length))] : 0;
  }

  /** The arrays of a model, and for each point where it is observed. */
  function unpack(model) {
    const points = model.points, seen = model.observations;
    const out = {
      ...model,
      xyz: decode(points.xyz, Float32Array), color: decode(points.color, Uint8Array),
      error: decode(points.error, Float32Array), length: decode(points.length, Uint16Array),
      angle: decode(points.angle, Float32Array), index: decode(points.index, Uint32Array),
      point: decode(seen.point, Uint32Array), xy: decode(seen.xy, Float32Array),
      residual: decode(seen.residual, Float32Array), start: seen.start,
    };
    const count = out.index.length, m = out.point.length;
    out.first = new Uint32Array(count + 1);
    for (const p of out.point) out.first[p + 1]++;
    for (let p = 0; p < count; p++) out.first[p + 1] += out.first[p];
    out.ofPoint = new Uint32Array(m); // observations of point p: ofPoint[first[p]] .. ofPoint[first[p + 1] - 1]
    out.frame = new Uint32Array(m);
    const place = out.first.slice();
    for (let s = 0; s < model.cameras.length; s++)
      for (let i = out.start[s]; i < out.start[s + 1]; i++) {
        out.frame[i] = s;
        out.ofPoint[place[out.point[i]]++] = i;
      }
    out.observed = (i) => [out.xy[2 * i], out.xy[2 * i + 1]];
    out.errorOf = (i) => Math.hypot(out.residual[2 * i], out.residual[2 * i + 1]);
    const errors = Array.from(out.point, (_, i) => out.errorOf(i));
    out.highError = quantile(errors, 0.95) || 1;
    // dark photographs are brightened by one factor, which keeps hues true
    out.exposure = clamp(0.95 * 255 / Math.max(quantile(out.color, 0.98), 1), 1, 1.7);
    out.enlarge = niceFactor(quantile(errors, 0.5), Math.max(...model.cameras[0].size));
    return out;
  }

  /** Factor that makes a usual residual some pixels long on the page. */
  function niceFactor(error, side) {
    if (!(error > 0)) return 1;
    const wanted = 0.005 * side / error, power = 10 ** Math.floor(Math.log10(wanted));
    return Math.max(1, [1, 2, 5, 10].map((f) => f * power).filter((f) => f <= wanted).pop());
  }

  // ---------------------------------------------------------------- state

  const unpacked = MODELS.map(() => null);
  const state = { m: 0, model: null, image: 0, point: null };
  const parts = [];
  const tell = (what) => parts.forEach((part) => part(what));

  function chooseModel(m, image = 0) {
    Object.assign(state, { m, model: unpacked[m] ??= unpack(MODELS[m]), image, point: null });
    document.querySelectorAll("section[data-model], .card[data-model]").forEach((el) => { el.hidden = +el.dataset.model !== m; });
    if ($("model")) $("model").value = m;
    tell("model");
  }
  function chooseImage(image) {
    const count = state.model.cameras.length;
    state.image = ((image % count) + count) % count;
    tell("image");
  }
  function choosePoint(point) {
    state.point = point;
    tell("point");
  }

  // ---------------------------------------------------------------- photographs

  /** [a, b, c, d, e, f] that turns stored pixels of a w x h photograph upright, by EXIF orientation. */
  const upright = (orientation, w, h) => ({
    1: [1, 0, 0, 1, 0, 0], 2: [-1, 0, 0, 1, w, 0], 3: [-1, 0, 0, -1, w, h], 4: [1, 0, 0, -1, 0, h],
    5: [0, 1, 1, 0, 0, 0], 6: [0, 1, -1, 0, h, 0], 7: [0, -1, -1, 0, h, w], 8: [0, -1, 1, 0, 0, w],
  })[orientation];
  const uprightSize = (camera) => camera.orientation >= 5 ? [camera.size[1], camera.size[0]] : camera.size;

  const loaded = new WeakMap();
  /** A promise of the photograph of a camera, decoded; of null where the page carries none. */
  function photograph(camera) {
    if (!camera.picture) return Promise.resolve(null);
    if (!loaded.has(camera)) {
      const image = new Image();
      image.src = camera.picture;
      loaded.set(camera, image.decode().then(() => image, () => null));
    }
    return loaded.get(camera);
  }

  /** Draw a photograph upright over a whole canvas, its short side cropped if the shapes differ. */
  function drawCovering(canvas, camera, image) {
    const [w, h] = camera.size, [W, H] = uprightSize(camera), context = canvas.getContext("2d");
    const scale = Math.max(canvas.width / W, canvas.height / H);
    context.setTransform(scale, 0, 0, scale, (canvas.width - scale * W) / 2, (canvas.height - scale * H) / 2);
    context.transform(...upright(camera.orientation, w, h));
    context.drawImage(image, 0, 0, w, h);
  }

  // ---------------------------------------------------------------- the scene

  const scene = (() => {
    const canvas = $("scene"), box = $("viewer"), tip = $("scene-tip");
    let renderer;
    try {
      renderer = new THREE.WebGLRenderer({ canvas, antialias: true, preserveDrawingBuffer: false });
    } catch {
      $("scene-failure").hidden = false;
      document.querySelectorAll(".viewer .help").forEach((el) => { el.hidden = true; });
      return null;
    }
    const BACKGROUND = "#11151d";
    renderer.setClearColor(new THREE.Color(BACKGROUND));
    renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    const eye = new THREE.PerspectiveCamera(45, 1, 0.01, 1000);
    const world = new THREE.Scene();
    const raycaster = new THREE.Raycaster();
    let controls, drawn, fly = null, pending = false, hovered = null, untouched = true;

    const vector = (array) => new THREE.Vector3(...array);
    const fromMiddle = (array) => vector(array).sub(vector(state.model.view.middle));
    const request = () => {
      if (!pending) { pending = true; requestAnimationFrame(frame); }
    };

    function frame(now) {
      pending = false;
      if (fly) {
        const t = clamp((now - fly.start) / fly.ms, 0, 1), eased = t * t * (3 - 2 * t);
        eye.position.lerpVectors(fly.from, fly.to, eased);
        controls.target.lerpVectors(fly.fromTarget, fly.toTarget, eased);
        if (t >= 1) fly = null;
        request();
      }
      if (controls.update()) request();
      renderer.render(world, eye);
      box.dataset.drawn = "true";
    }

    const pointMaterial = new THREE.ShaderMaterial({
      uniforms: { size: { value: 1 }, scale: { value: 1 }, least: { value: 1 }, paper: { value: new THREE.Vector3(...hex(BACKGROUND)) } },
      vertexShader: `
        attribute vec3 tint; attribute float strength; uniform float size, scale, least;
        varying vec3 colour; varying float kept;
        void main() {
          vec4 place = modelViewMatrix * vec4(position, 1.0);
          gl_Position = projectionMatrix * place;
          gl_PointSize = clamp(size * scale * (strength > 1.0 ? 1.5 : 1.0) / max(-place.z, 1e-6), least, 40.0 * least);
          colour = tint; kept = min(strength, 1.0);
        }`,
      fragmentShader: `
        uniform vec3 paper; varying vec3 colour; varying float kept;
        void main() {
          vec2 from = gl_PointCoord - 0.5;
          if (dot(from, from) > 0.25) discard;
          gl_FragColor = vec4(mix(paper, colour, kept), 1.0);
        }`,
    });

    function fatLines(width, opacity = 1) {
      const material = new THREE.LineMaterial({ linewidth: width, vertexColors: true, transparent: opacity < 1, opacity });
      const lines = new THREE.LineSegments2(new THREE.LineSegmentsGeometry(), material);
      lines.frustumCulled = false;
      return lines;
    }
    function setLines(lines, positions, colors) {
      lines.visible = positions.length > 0;
      if (!lines.visible) return;
      lines.geometry.dispose();
      lines.geometry = new THREE.LineSegmentsGeometry();
      lines.geometry.setPositions(positions);
      lines.geometry.setColors(colors);
    }

    const frustumSize = () => state.model.view.depth * 2 ** +$("camera-size").value;
    /** Apex and corners of camera s, from the middle of the scene. */
    function frustum(s, size = frustumSize()) {
      const camera = state.model.cameras[s], apex = fromMiddle(camera.center);
      return [apex, ...camera.corners.map((corner) => apex.clone().addScaledVector(vector(corner), size))];
    }
    const EDGES = [0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 2, 3, 3, 4, 4, 1];
    const FACES = [0, 1, 2, 0, 2, 3, 0, 3, 4, 0, 4, 1, 1, 2, 3, 1, 3, 4];

    function build() {
      world.clear();
      drawn?.dispose.forEach((thing) => thing.dispose());
      const model = state.model, count = model.index.length;
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", new THREE.BufferAttribute(model.xyz, 3));
      geometry.setAttribute("tint", new THREE.BufferAttribute(new Float32Array(3 * count), 3));
      geometry.setAttribute("strength", new THREE.BufferAttribute(new Float32Array(count), 1));
      const points = new THREE.Points(geometry, pointMaterial);
      points.frustumCulled = false;
      drawn = { points, lines: fatLines(1.4, 0.9), chosen: fatLines(3), rays: fatLines(1.4, 0.75), planes: new THREE.Group(), dispose: [geometry] };
      drawn.pick = new THREE.Mesh(new THREE.BufferGeometry(), new THREE.MeshBasicMaterial({
        color: CAMERA, transparent: true, opacity: 0.07, side: THREE.DoubleSide, depthWrite: false }));
      drawn.pick.frustumCulled = false;
      world.add(points, drawn.planes, drawn.pick, drawn.lines, drawn.rays, drawn.chosen);
      controls?.dispose();
      eye.up.copy(vector(model.view.axes[1]).negate());
      eye.near = model.view.radius * 1e-3;
      eye.far = model.view.radius * 60;
      controls = new THREE.OrbitControls(eye, canvas);
      controls.enableDamping = !still.matches;
      controls.dampingFactor = 0.12;
      controls.zoomToCursor = true;
      controls.addEventListener("change", request);
      controls.addEventListener("start", () => { fly = null; untouched = false; });
      makePlanes();
      paintPoints();
      placeCameras();
      untouched = true;
      showAll();
    }

    function showAll() {
      const view = overviewOf();
      eye.position.copy(view.position);
      controls.target.copy(view.target);
      controls.update();
      request();
    }

    /** From behind the cameras, to their right and above them, so near that all just fits. */
    function overviewOf() {
      const model = state.model, [right, down, away] = model.view.axes.map(vector);
      const azimuth = 0.3, elevation = 0.46, margin = 0.92;
      const forward = new THREE.Vector3()
        .addScaledVector(away, Math.cos(elevation) * Math.cos(azimuth))
        .addScaledVector(right, -Math.cos(elevation) * Math.sin(azimuth))
        .addScaledVector(down, Math.sin(elevation));
      const side = new THREE.Vector3().crossVectors(forward, eye.up).normalize(), top = new THREE.Vector3().crossVectors(side, forward);
      const seen = innerPoints().concat(model.cameras.flatMap((_, s) => frustum(s)));
      const along = [side, top, forward].map((axis) => seen.map((place) => place.dot(axis)));
      const middle = along.map((values) => (values.reduce((a, b) => Math.max(a, b)) + values.reduce((a, b) => Math.min(a, b))) / 2);
      const slope = Math.tan(eye.fov * Math.PI / 360) * margin;
      let distance = 0.1 * model.view.radius;
      seen.forEach((_, i) => {
        const reach = Math.max(Math.abs(along[0][i] - middle[0]) / (slope * eye.aspect), Math.abs(along[1][i] - middle[1]) / slope);
        distance = Math.max(distance, reach - (along[2][i] - middle[2]));
      });
      const target = new THREE.Vector3().addScaledVector(side, middle[0]).addScaledVector(top, middle[1]).addScaledVector(forward, middle[2]);
      return { position: target.clone().addScaledVector(forward, -distance), target };
    }

    /** Some of the points, without the farthest along each axis. */
    function innerPoints() {
      const { xyz, index } = state.model, step = Math.max(1, Math.ceil(index.length / 4000)), places = [];
      for (let p = 0; p < index.length; p += step) places.push(new THREE.Vector3().fromArray(xyz, 3 * p));
      const limits = ["x", "y", "z"].map((axis) => [axis, ...[0.02, 0.98].map((share) => quantile(places.map((place) => place[axis]), share))]);
      return places.filter((place) => limits.every(([axis, low, high]) => place[axis] >= low && place[axis] <= high));
    }

    function paintPoints() {
      const model = state.model, mode = $("colour").value, count = model.index.length;
      const tint = drawn.points.geometry.getAttribute("tint"), strength = drawn.points.geometry.getAttribute("strength");
      if (mode === "photo") for (let i = 0; i < 3 * count; i++) tint.array[i] = Math.min(1, model.exposure * model.color[i] / 255);
      else {
        const values = model[mode], paint = ramp(mode), top = quantile(values, 0.95) || 1;
        for (let p = 0; p < count; p++) tint.array.set(paint(values[p] / top), 3 * p);
      }
      legend($("scene-legend"), mode);
      const onlySeen = $("only-seen").checked;
      strength.array.fill(onlySeen ? 0.12 : 1);
      if (onlySeen) for (let i = model.start[state.image]; i < model.start[state.image + 1]; i++) strength.array[model.point[i]] = 1;
      if (state.point !== null) {
        tint.array.set(hex(CHOSEN), 3 * state.point);
        strength.array[state.point] = 2;
      }
      tint.needsUpdate = strength.needsUpdate = true;
      // larger where there are few, so that a surface of them looks whole
      pointMaterial.uniforms.size.value = model.view.radius * 0.013 * clamp(Math.sqrt(6000 / Math.max(count, 1)), 0.35, 2.2) * 2 ** +$("point-size").value;
      request();
    }

    function placeCameras() {
      const model = state.model, positions = [], colors = [], faces = [];
      const color = (text) => { const c = new THREE.Color(text); return [c.r, c.g, c.b]; };
      const seeing = new Set();
      if (state.point !== null)
        for (let k = model.first[state.point]; k < model.first[state.point + 1]; k++) seeing.add(model.frame[model.ofPoint[k]]);
      model.cameras.forEach((camera, s) => {
        const corners = frustum(s), tone = color(s === hovered ? HOVERED : seeing.has(s) ? CHOSEN : CAMERA);
        for (const corner of EDGES) { positions.push(...corners[corner]); colors.push(...tone); }
        for (const corner of FACES) faces.push(...corners[corner]);
        drawn.planes.children[s] && placePlane(drawn.planes.children[s], corners);
      });
      setLines(drawn.lines, positions, colors);
      drawn.pick.geometry.dispose();
      drawn.pick.geometry = new THREE.BufferGeometry();
      drawn.pick.geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(faces), 3));
      const corners = frustum(state.image), tone = color(CHOSEN);
      setLines(drawn.chosen, EDGES.flatMap((corner) => [...corners[corner]]), EDGES.flatMap(() => tone));
      const rays = [], rayColors = [];
      if (state.point !== null) for (const s of seeing) {
        rays.push(...fromMiddle(model.cameras[s].center), ...model.xyz.subarray(3 * state.point, 3 * state.point + 3));
        rayColors.push(...tone, ...tone);
      }
      setLines(drawn.rays, rays, rayColors);
      request();
    }

    const MAX_PLANES = 150;
    function makePlanes() {
      const some = state.model.cameras.length <= MAX_PLANES && state.model.cameras.some((camera) => camera.picture);
      $("planes").parentElement.hidden = !some;
      if (!some) return;
      const planes = drawn.planes;
      for (const camera of state.model.cameras) {
        const material = new THREE.MeshBasicMaterial({ side: THREE.DoubleSide, transparent: true, opacity: 0.92 });
        const geometry = new THREE.BufferGeometry();
        geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(12), 3));
        geometry.setAttribute("uv", new THREE.BufferAttribute(new Float32Array([0, 1, 1, 1, 1, 0, 0, 0]), 2));
        geometry.setIndex([0, 1, 2, 0, 2, 3]);
        const plane = new THREE.Mesh(geometry, material);
        plane.visible = plane.frustumCulled = false;
        planes.add(plane);
        drawn.dispose.push(geometry, material);
        const { dispose } = drawn;
        photograph(camera).then((image) => {
          if (!image) return;
          const small = document.createElement("canvas"), scale = Math.min(1, 320 / Math.max(...camera.size));
          [small.width, small.height] = camera.size.map((side) => Math.max(1, Math.round(side * scale)));
          small.getContext("2d").drawImage(image, 0, 0, small.width, small.height);
          const texture = new THREE.Texture(small);
          texture.colorSpace = THREE.SRGBColorSpace;
          texture.anisotropy = 4;
          texture.needsUpdate = true;
          dispose.push(texture);
          material.map = texture;
          material.needsUpdate = true;
          plane.visible = true;
          request();
        });
      }
      planes.visible = $("planes").checked;
    }
    function placePlane(plane, corners) {
      const place = plane.geometry.getAttribute("position");
      corners.slice(1).forEach((corner, i) => place.setXYZ(i, corner.x, corner.y, corner.z));
      place.needsUpdate = true;
    }

    // ---- the pointer

    const onCanvas = (event) => {
      const area = canvas.getBoundingClientRect();
      return new THREE.Vector2(event.clientX - area.left, event.clientY - area.top);
    };
    function project(place) {
      const shown = place.clone().project(eye);
      return { x: (shown.x + 1) / 2 * canvas.clientWidth, y: (1 - shown.y) / 2 * canvas.clientHeight, ahead: shown.z < 1 };
    }
    function cameraAt(at) {
      raycaster.setFromCamera(new THREE.Vector2(2 * at.x / canvas.clientWidth - 1, 1 - 2 * at.y / canvas.clientHeight), eye);
      const hit = raycaster.intersectObject(drawn.pick)[0];
      if (hit) return { s: Math.floor(hit.faceIndex / (FACES.length / 3)), distance: hit.distance };
      // small ones are hard to hit
      let best = null, nearest = 9;
      state.model.cameras.forEach((_, s) => {
        const place = planeCentre(s), shown = project(place), distance = Math.hypot(shown.x - at.x, shown.y - at.y);
        if (shown.ahead && distance < nearest) { nearest = distance; best = { s, distance: place.distanceTo(eye.position) }; }
      });
      return best;
    }
    function planeCentre(s) {
      const [, ...corners] = frustum(s);
      return corners.reduce((sum, corner) => sum.add(corner), new THREE.Vector3()).multiplyScalar(0.25);
    }
    function pointAt(at, reach = 7) {
      const { xyz, index } = state.model, place = new THREE.Vector3();
      let best = null, nearest = Infinity;
      for (let p = 0; p < index.length; p++) {
        place.fromArray(xyz, 3 * p);
        const shown = project(place);
        if (!shown.ahead || Math.hypot(shown.x - at.x, shown.y - at.y) > reach) continue;
        const distance = place.distanceTo(eye.position);
        if (distance < nearest) { nearest = distance; best = p; }
      }
      return best === null ? null : { p: best, distance: nearest };
    }

    let pressed = null;
    canvas.addEventListener("pointerdown", (event) => { pressed = onCanvas(event); canvas.style.cursor = "grabbing"; });
    canvas.addEventListener("pointerup", (event) => {
      canvas.style.cursor = "";
      const at = onCanvas(event), clicked = pressed && pressed.distanceTo(at) < 5;
      pressed = null;
      if (!clicked) return;
      const camera = cameraAt(at), point = pointAt(at);
      if (camera && !(point && point.distance < camera.distance)) chooseImage(camera.s);
      else choosePoint(point ? point.p : null);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons || event.pointerType === "touch") return;
      const at = onCanvas(event), camera = cameraAt(at), s = camera ? camera.s : null;
      tip.hidden = s === null;
      canvas.style.cursor = s === null ? "" : "pointer";
      if (s !== null) {
        tip.textContent = state.model.cameras[s].name;
        tip.style.left = `${at.x}px`;
        tip.style.top = `${at.y}px`;
      }
      if (s !== hovered) { hovered = s; placeCameras(); }
    });
    canvas.addEventListener("pointerleave", () => {
      tip.hidden = true;
      if (hovered !== null) { hovered = null; placeCameras(); }
    });

    // ---- the keyboard

    const TURN = 0.12;
    function turn(across, up) {
      untouched = false;
      const offset = eye.position.clone().sub(controls.target);
      offset.applyAxisAngle(eye.up, across);
      const side = new THREE.Vector3().crossVectors(eye.up, offset).normalize(), tilted = offset.clone().applyAxisAngle(side, up);
      if (Math.abs(tilted.angleTo(eye.up) - Math.PI / 2) < 1.5) offset.copy(tilted);
      eye.position.copy(controls.target).add(offset);
      request();
    }
    function zoom(factor) {
      untouched = false;
      eye.position.sub(controls.target).multiplyScalar(factor).add(controls.target);
      request();
    }
    const KEYS = {
      ArrowLeft: () => turn(-TURN, 0), ArrowRight: () => turn(TURN, 0), ArrowUp: () => turn(0, -TURN), ArrowDown: () => turn(0, TURN),
      "+": () => zoom(0.88), "=": () => zoom(0.88), "-": () => zoom(1.14), Home: () => flyTo(overviewOf()),
      ",": () => chooseImage(state.image - 1), ".": () => chooseImage(state.image + 1), Enter: () => lookThrough(), Escape: () => choosePoint(null),
    };
    canvas.addEventListener("keydown", (event) => {
      const act = !event.ctrlKey && !event.metaKey && !event.altKey && KEYS[event.key];
      if (act) { event.preventDefault(); fly = null; act(); }
    });

    function flyTo({ position, target }) {
      untouched = false;
      fly = { start: performance.now(), ms: still.matches ? 1 : 700, from: eye.position.clone(), to: position, fromTarget: controls.target.clone(), toTarget: target };
      request();
    }
    /** To the place of the chosen camera, as near as an upright spectator can come to it. */
    function lookThrough() {
      const model = state.model, camera = model.cameras[state.image], place = fromMiddle(camera.center), forward = vector(camera.forward);
      const depths = [];
      for (let i = model.start[state.image]; i < model.start[state.image + 1]; i++)
        depths.push(new THREE.Vector3().fromArray(model.xyz, 3 * model.point[i]).sub(place).dot(forward));
      const depth = Math.max(quantile(depths, 0.5), 0.05 * model.view.radius);
      flyTo({ position: place.clone().addScaledVector(forward, -1e-3 * depth), target: place.clone().addScaledVector(forward, depth) });
    }

    new ResizeObserver(() => {
      const { clientWidth: width, clientHeight: height } = box;
      if (!width || !height) return;
      renderer.setSize(width, height, false);
      eye.aspect = width / height;
      eye.updateProjectionMatrix();
      const ratio = renderer.getPixelRatio();
      pointMaterial.uniforms.scale.value = height * ratio / (2 * Math.tan(eye.fov * Math.PI / 360));
      pointMaterial.uniforms.least.value = 1.25 * ratio;
      if (untouched && drawn) showAll();
      request();
    }).observe(box);
    $("colour").addEventListener("change", paintPoints);
    $("point-size").addEventListener("input", paintPoints);
    $("only-seen").addEventListener("change", paintPoints);
    $("camera-size").addEventListener("input", placeCameras);
    $("planes").addEventListener("change", () => { drawn.planes.visible = $("planes").checked; request(); });
    $("look-through").addEventListener("click", lookThrough);
    $("show-all").addEventListener("click", () => flyTo(overviewOf()));

    parts.push((what) => {
      if (what === "model") { hovered = null; build(); } else { paintPoints(); placeCameras(); }
    });
    return {
      /** Where a camera's picture plane is in the window, for tests. */
      cameraOnScreen(s) {
        eye.updateMatrixWorld();
        const at = project(planeCentre(s)), area = canvas.getBoundingClientRect();
        return [area.left + at.x, area.top + at.y];
      },
    };
  })();

  function legend(el, mode) {
    el.hidden = mode === "photo";
    if (el.hidden) return;
    const top = mode === "error" && el.id === "picture-legend" ? state.model.highError : quantile(state.model[mode], 0.95);
    const unit = { error: " px", length: " images", angle: "°" }[mode];
    const bar = document.createElement("i");
    bar.style.background = `linear-gradient(90deg, ${RAMPS[mode].join(", ")})`;
    el.replaceChildren("0", bar, `${number(top, mode === "length" ? 0 : mode === "error" ? 2 : 1)}${unit}`);
  }

  // ---------------------------------------------------------------- the picture

  (() => {
    const canvas = $("picture");
    let scale = 1, hovered = null;

    async function draw() {
      const { model, image: s } = state, camera = model.cameras[s], [w, h] = camera.size, [W, H] = uprightSize(camera);
      const image = await photograph(camera);
      if (model !== state.model || s !== state.image) return;
      const ratio = Math.min(devicePixelRatio, 2), width = canvas.parentElement.clientWidth || 600;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(canvas.width * H / W);
      scale = canvas.width / W;
      const context = canvas.getContext("2d");
      context.setTransform(scale, 0, 0, scale, 0, 0);
      context.transform(...upright(camera.orientation, w, h));
      if (image) context.drawImage(image, 0, 0, w, h);
      else {
        context.fillStyle = "#1a202b";
        context.fillRect(0, 0, w, h);
      }
      const one = ratio / scale; // a pixel of the page in stored pixels
      const many = model.start[s + 1] - model.start[s];
      if ($("layer-tracks").checked) drawTracks(context, s, one);
      if ($("layer-residuals").checked) drawResiduals(context, s, one);
      if ($("layer-points").checked) drawPoints(context, s, one, many > 1500 ? 1.9 : 2.5);
      if (state.point !== null) drawChosen(context, s, one);
      if (hovered !== null && hovered < model.start[s + 1] && hovered >= model.start[s]) ring(context, model.observed(hovered), 6 * one, 2 * one, "#ffffff");
      canvas.dataset.image = s;
    }

    function drawPoints(context, s, one, radius) {
      const { model } = state, paint = ramp("error");
      const veil = (radius + 0.9) * one;
      context.fillStyle = "rgb(8 11 16 / .55)";
      context.beginPath();
      for (let i = model.start[s]; i < model.start[s + 1]; i++) {
        const [x, y] = model.observed(i);
        context.moveTo(x + veil, y);
        context.arc(x, y, veil, 0, 7);
      }
      context.fill();
      for (let i = model.start[s]; i < model.start[s + 1]; i++) {
        const [x, y] = model.observed(i), error = model.errorOf(i);
        context.fillStyle = Number.isFinite(error) ? css(paint(error / model.highError)) : "#c3cad6";
        context.beginPath();
        context.arc(x, y, radius * one, 0, 7);
        context.fill();
      }
    }

    /** Lines from the observed position towards the reprojected one, enlarged. */
    function drawResiduals(context, s, one) {
      const { model } = state, paint = ramp("error");
      context.lineWidth = 1.4 * one;
      for (let i = model.start[s]; i < model.start[s + 1]; i++) {
        if (!Number.isFinite(model.residual[2 * i])) continue;
        const [x, y] = model.observed(i);
        context.strokeStyle = css(paint(model.errorOf(i) / model.highError));
        context.beginPath();
        context.moveTo(x, y);
        context.lineTo(x + model.enlarge * model.residual[2 * i], y + model.enlarge * model.residual[2 * i + 1]);
        context.stroke();
      }
    }

    const MAX_TRACKS = 500;
    /** Where points are in the two images before and after that see them, scaled to this image. */
    function drawTracks(context, s, one) {
      const { model } = state, step = Math.max(1, Math.ceil((model.start[s + 1] - model.start[s]) / MAX_TRACKS));
      context.lineJoin = "round";
      for (let i = model.start[s]; i < model.start[s + 1]; i += step) {
        const path = trackOf(model.point[i], s, 2);
        context.lineWidth = 1.3 * one;
        context.strokeStyle = `hsl(${(model.point[i] * 137.5) % 360} 85% 64% / .75)`;
        strokePath(context, path);
      }
    }
    function trackOf(point, s, reach) {
      const { model } = state, [w, h] = model.cameras[s].size, seen = [];
      for (let k = model.first[point]; k < model.first[point + 1]; k++) seen.push(model.ofPoint[k]);
      const here = seen.findIndex((i) => model.frame[i] === s);
      return seen.slice(Math.max(0, here - reach), here < 0 ? 0 : here + reach + 1).map((i) => {
        const [x, y] = model.observed(i), [otherW, otherH] = model.cameras[model.frame[i]].size;
        return [x * w / otherW, y * h / otherH];
      });
    }
    function strokePath(context, path) {
      context.beginPath();
      path.forEach(([x, y], i) => i ? context.lineTo(x, y) : context.moveTo(x, y));
      context.stroke();
    }
    function ring(context, [x, y], radius, width, color) {
      context.lineWidth = width;
      context.strokeStyle = color;
      context.beginPath();
      context.arc(x, y, radius, 0, 7);
      context.stroke();
    }
    function drawChosen(context, s, one) {
      const { model } = state;
      for (let k = model.first[state.point]; k < model.first[state.point + 1]; k++) {
        const i = model.ofPoint[k];
        if (model.frame[i] !== s) continue;
        context.lineWidth = 2.5 * one;
        context.strokeStyle = CHOSEN;
        strokePath(context, trackOf(state.point, s, 99));
        ring(context, model.observed(i), 8 * one, 4.5 * one, "rgb(0 0 0 / .6)");
        ring(context, model.observed(i), 8 * one, 2.5 * one, CHOSEN);
      }
    }

    function observationAt(event) {
      const { model, image: s } = state, camera = model.cameras[s], area = canvas.getBoundingClientRect();
      const [a, b, c, d, e, f] = upright(camera.orientation, ...camera.size), per = camera.size[camera.orientation >= 5 ? 1 : 0] / area.width;
      let best = null, nearest = 14 * per;
      for (let i = model.start[s]; i < model.start[s + 1]; i++) {
        const [x, y] = model.observed(i);
        const distance = Math.hypot(a * x + c * y + e - (event.clientX - area.left) * per, b * x + d * y + f - (event.clientY - area.top) * per);
        if (distance < nearest) { nearest = distance; best = i; }
      }
      return best;
    }
    canvas.addEventListener("pointermove", (event) => {
      const found = event.pointerType === "touch" ? null : observationAt(event);
      if (found !== hovered) { hovered = found; draw(); }
    });
    canvas.addEventListener("pointerleave", () => { if (hovered !== null) { hovered = null; draw(); } });
    canvas.addEventListener("click", (event) => {
      const found = observationAt(event);
      choosePoint(found === null ? null : state.model.point[found]);
    });

    // ---- the chosen point in all images

    const PATCH_PX = 82, PATCH_STORED = 0.055;
    function drawPatches() {
      const { model, point } = state;
      $("point").hidden = point === null;
      $("point-hint").hidden = point !== null;
      if (point === null) return;
      const count = model.first[point + 1] - model.first[point];
      $("point-figures").textContent = `Point ${number(model.index[point])}: in ${model.length[point]} images, mean error ${number(model.error[point], 2)} px, largest angle ${number(model.angle[point], 1)}°`;
      const buttons = [];
      for (let k = 0; k < Math.min(count, 60); k++) {
        const i = model.ofPoint[model.first[point] + k], s = model.frame[i], camera = model.cameras[s];
        const button = document.createElement("button"), patch = document.createElement("canvas"), name = document.createElement("span");
        button.type = "button";
        button.setAttribute("aria-current", s === state.image);
        button.title = `${camera.name}: ${number(model.errorOf(i), 2)} px`;
        name.textContent = camera.name;
        button.append(patch, name);
        button.addEventListener("click", () => chooseImage(s));
        buttons.push(button);
        drawPatch(patch, camera, i);
      }
      if (model.first[point + 1] === model.first[point]) buttons.push("The page does not carry the track of this point.");
      $("patches").replaceChildren(...buttons);
    }
    async function drawPatch(patch, camera, i) {
      const { model } = state, image = await photograph(camera), [x, y] = model.observed(i);
      const ratio = Math.min(devicePixelRatio, 2), [a, b, c, d] = upright(camera.orientation, ...camera.size);
      patch.width = patch.height = PATCH_PX * ratio;
      const per = patch.width / (PATCH_STORED * Math.max(...camera.size)), middle = patch.width / 2, context = patch.getContext("2d");
      context.setTransform(a * per, b * per, c * per, d * per, middle, middle);
      context.translate(-x, -y);
      if (image) context.drawImage(image, 0, 0, ...camera.size);
      const one = ratio / per;
      ring(context, [x, y], 7 * one, 3 * one, "rgb(0 0 0 / .5)");
      ring(context, [x, y], 7 * one, 1.5 * one, CHOSEN);
      const rx = x + model.residual[2 * i], ry = y + model.residual[2 * i + 1];
      if (!Number.isFinite(rx)) return;
      context.lineWidth = 1.5 * one;
      context.strokeStyle = "#ffffff";
      strokePath(context, [[rx - 4 * one, ry], [rx + 4 * one, ry]]);
      strokePath(context, [[rx, ry - 4 * one], [rx, ry + 4 * one]]);
    }

    function words() {
      const camera = state.model.cameras[state.image];
      $("picture-name").textContent = camera.name;
      $("picture-figures").textContent = `${number(camera.observations)} points · mean error ${number(camera.mean_error_px, 2)} px · image ${state.image + 1} of ${state.model.cameras.length}`;
      $("residual-label").textContent = `reprojections ×${state.model.enlarge}`;
      canvas.setAttribute("aria-label", `${camera.name} with ${camera.observations} observed points`);
      legend($("picture-legend"), "error");
    }
    for (const id of ["layer-points", "layer-residuals", "layer-tracks"]) $(id).addEventListener("change", draw);
    $("previous").addEventListener("click", () => chooseImage(state.image - 1));
    $("next").addEventListener("click", () => chooseImage(state.image + 1));
    let width = 0;
    new ResizeObserver(() => {
      if (canvas.parentElement.clientWidth === width || !state.model) return;
      width = canvas.parentElement.clientWidth;
      draw();
    }).observe(canvas.parentElement);
    parts.push((what) => {
      if (what !== "point") hovered = null;
      words();
      draw();
      drawPatches();
    });
  })();

  // ---------------------------------------------------------------- the film of images

  (() => {
    const film = $("film");
    const seen = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) if (isIntersecting) {
        seen.unobserve(target);
        const camera = state.model.cameras[+target.dataset.frame];
        photograph(camera).then((image) => image && drawCovering(target.firstChild, camera, image));
      }
    }, { root: film, rootMargin: "300px" });

    function build() {
      seen.disconnect();
      film.replaceChildren(...state.model.cameras.map((camera, s) => {
        const item = document.createElement("div"), canvas = document.createElement("canvas"), name = document.createElement("span");
        item.id = `film-${s}`;
        item.dataset.frame = s;
        item.setAttribute("role", "option");
        canvas.width = 224;
        canvas.height = 160;
        name.textContent = item.title = camera.name;
        item.append(canvas, name);
        item.addEventListener("click", () => chooseImage(s));
        seen.observe(item);
        return item;
      }));
    }
    film.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: state.image - 1, ArrowRight: state.image + 1, Home: 0, End: state.model.cameras.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      chooseImage(to);
    });
    parts.push((what) => {
      if (what === "point") return;
      if (what === "model") build();
      [...film.children].forEach((item, s) => item.setAttribute("aria-selected", s === state.image));
      film.setAttribute("aria-activedescendant", `film-${state.image}`);
      const item = film.children[state.image];
      film.scrollLeft = item.offsetLeft - film.offsetLeft - (film.clientWidth - item.clientWidth) / 2;
    });
  })();

  // ---------------------------------------------------------------- charts

  const SVG = "http://www.w3.org/2000/svg";
  function svg(name, attributes, ...children) {
    const el = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) el.setAttribute(key, value);
    el.append(...children);
    return el;
  }

  /** Bars over [low, high] with a line at the median. */
  function bars(el, { counts, low, high, median, paint, unit, digits, label, lastOpen }) {
    const W = 320, H = 236, left = 2, bottom = 22, top = 24, tallest = Math.max(...counts, 1);
    if (!counts.length) {
      el.replaceChildren("There is nothing to count.");
      return;
    }
    const x = (value) => left + (W - 2 * left) * (value - low) / (high - low || 1), step = (W - 2 * left) / counts.length;
    const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label });
    counts.forEach((count, i) => {
      const from = low + (high - low) * i / counts.length, to = low + (high - low) * (i + 1) / counts.length;
      const height = count ? Math.max(1.5, (H - bottom - top) * count / tallest) : 0;
      const text = unit === "images" ? `${Math.round((from + to) / 2)}${lastOpen && i === counts.length - 1 ? " or more" : ""} images: ${number(count)}`
        : `${number(from, digits)} to ${lastOpen && i === counts.length - 1 ? "more" : number(to, digits)} ${unit}: ${number(count)}`;
      drawing.append(svg("rect", { x: left + i * step + 0.5, y: H - bottom - height, width: Math.max(1, step - 1), height, rx: 1.5, fill: css(paint((i + 0.5) / counts.length)) }, svg("title", {}, text)));
    });
    drawing.append(svg("line", { class: "axis", x1: 0, x2: W, y1: H - bottom, y2: H - bottom }));
    for (const share of [0, 0.5, 1]) {
      const value = low + share * (high - low), shown = unit === "images" ? clamp(Math.round(value - 0.5 + share), Math.ceil(low), Math.floor(high)) : value;
      drawing.append(svg("text", { x: left + share * (W - 2 * left), y: H - 6, "text-anchor": ["start", "middle", "end"][2 * share] },
        `${number(shown, digits)}${share === 1 ? `${unit === "°" ? "°" : ` ${unit}`}${lastOpen ? " +" : ""}` : ""}`));
    }
    if (median !== null) {
      const at = x(clamp(median, low, high)), right = at > W * 0.6;
      drawing.append(svg("line", { class: "median", x1: at, x2: at, y1: top - 4, y2: H - bottom }),
        svg("text", { class: "value", x: at + (right ? -5 : 5), y: top - 8, "text-anchor": right ? "end" : "start" }, `median ${number(median, digits)}${unit === "°" ? "°" : ` ${unit}`}`));
    }
    el.replaceChildren(drawing);
  }

  parts.push((what) => {
    if (what !== "model") return;
    const { error, length, angle } = state.model.histograms;
    const digits = error.top < 0.5 ? 3 : error.top < 20 ? 2 : 0;
    bars($("chart-error"), { counts: error.counts, low: 0, high: error.top, median: error.median, paint: ramp("error"), unit: "px", digits, lastOpen: true,
      label: `Reprojection errors of ${number(error.count)} observations: median ${number(error.median, digits)} px, mean ${number(error.mean, digits)} px` });
    const from = Math.max(0, length.counts.findIndex((count) => count > 0));
    bars($("chart-length"), { counts: length.counts.slice(from), low: from - 0.5, high: length.counts.length - 0.5, median: length.median, paint: ramp("length"), unit: "images", digits: 0,
      lastOpen: length.max > length.counts.length - 1, label: `Images per point: median ${number(length.median)}, longest ${number(length.max)}` });
    bars($("chart-angle"), { counts: angle.counts, low: 0, high: angle.top, median: angle.median, paint: ramp("angle"), unit: "°", digits: 1, lastOpen: false,
      label: `Largest angle of each point: median ${number(angle.median, 1)} degrees` });
  });

  (() => {
    const canvas = $("covisibility"), readout = $("covisibility-readout");
    let counts, side, per;
    const range = (cell) => {
      const cameras = state.model.cameras, last = Math.min(cameras.length, (cell + 1) * per) - 1;
      return per === 1 ? cameras[cell].name : `${cameras[cell * per].name} … ${cameras[last].name}`;
    };
    const cellAt = (event) => {
      const area = canvas.getBoundingClientRect();
      return [event.clientX - area.left, event.clientY - area.top].map((at) => clamp(Math.floor(at / area.width * side), 0, side - 1));
    };
    function draw() {
      const paint = ramp("count"), context = canvas.getContext("2d"), pixels = context.createImageData(side, side);
      let top = 1;
      for (let i = 0; i < side * side; i++) if (i % (side + 1)) top = Math.max(top, counts[i]);
      for (let i = 0; i < side * side; i++) {
        const rgb = paint(Math.sqrt(counts[i] / top)).map((value) => Math.round(255 * value));
        pixels.data.set(i % (side + 1) === 0 ? [70, 78, 92, 255] : [...rgb, 255], 4 * i);
      }
      context.putImageData(pixels, 0, 0);
      let links = 0;
      for (let i = 0; i < side; i++) for (let j = 0; j < i; j++) links += counts[i * side + j] > 0;
      canvas.setAttribute("aria-label", `Covisibility: ${number(links)} of ${number(side * (side - 1) / 2)} pairs share points, ${number(top)} at most`);
      readout.textContent = canvas.getAttribute("aria-label").replace("Covisibility: ", "");
    }
    canvas.addEventListener("pointermove", (event) => {
      const [column, row] = cellAt(event), count = number(counts[row * side + column]);
      readout.textContent = row === column ? `${range(row)}: ${count} points` : `${range(row)} · ${range(column)}: ${count} points`;
    });
    canvas.addEventListener("pointerleave", draw);
    canvas.addEventListener("click", (event) => chooseImage(cellAt(event)[1] * per));
    parts.push((what) => {
      if (what !== "model") return;
      const matrix = state.model.covisibility;
      counts = decode(matrix.counts, Uint32Array);
      ({ side, framesPerCell: per } = matrix);
      canvas.width = canvas.height = side;
      draw();
    });
  })();

  // ---------------------------------------------------------------- tables

  (() => {
    const table = $("images"), body = table.tBodies[0];
    const rows = [...body.rows], buttons = rows.map((row) => row.querySelector("button[data-frame]"));
    buttons.forEach((button) => button?.addEventListener("click", () => {
      const m = +button.dataset.model, s = +button.dataset.frame;
      if (m === state.m) chooseImage(s); else chooseModel(m, s);
      document.querySelector(".stage").scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
    }));
    const value = (row, column) => {
      const text = row.cells[column].textContent.trim(), figure = parseFloat(text.replaceAll(",", ""));
      return table.tHead.rows[0].cells[column].classList.contains("n") ? (Number.isNaN(figure) ? -1 : figure) : text.toLowerCase();
    };
    [...table.tHead.rows[0].cells].forEach((head, column, heads) => head.firstChild.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling === 1 ? "ascending" : "descending");
      const compare = (a, b) => typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
      body.append(...[...rows].sort((a, b) => falling * compare(value(a, column), value(b, column))));
    }));
    parts.push(() => buttons.forEach((button, i) => {
      const here = button && +button.dataset.model === state.m && +button.dataset.frame === state.image;
      if (here) rows[i].setAttribute("aria-current", "true"); else rows[i].removeAttribute("aria-current");
    }));
    $("model")?.addEventListener("change", (event) => chooseModel(+event.target.value));
  })();

  chooseModel(0);
  window.vggsfmReport = { state, cameraOnScreen: scene?.cameraOnScreen };
})();
