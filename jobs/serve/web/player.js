// A video with the controls that this page needs. Where no browser plays it, its stills stand in for it.

import { Segments, canPlaySegments } from "./segments.js";
import { button, clock, el, fill, icon, later, still } from "./lib.js";

const RATES = [0.25, 0.5, 1, 1.5, 2, 4];

export class Player {
  constructor({ facts, duration, captions }) {
    Object.assign(this, { facts, duration, captions });
    this.now = 0;
    this.ontime = () => {};
    this.until = null;
    this.screen = el("div", { class: "screen" });
    if (facts.width && facts.height) this.screen.style.aspectRatio = `${facts.width} / ${facts.height}`;
    this.time = el("span", { class: "time" });
    this.playButton = button("play", "Play", () => this.toggle());
    this.soundButton = button("sound", "Sound off", () => this.mute());
    this.captionButton = button("captions", "Events as captions", () => this.caption(), { "aria-pressed": "false" });
    this.rate = el("select", { "aria-label": "Speed", class: "rate", onchange: () => { if (this.media) this.media.playbackRate = Number(this.rate.value); } },
      RATES.map((r) => el("option", { value: r, selected: r === 1 }, `${r}×`)));
    this.bar = el("div", { class: "controls" }, this.playButton, button("left", "A frame back", () => this.frame(-1)), button("right", "A frame forward", () => this.frame(1)),
      this.time, el("div", { class: "spacer" }), this.rate, this.captionButton, this.soundButton, button("full", "Full screen", () => this.full()));
    this.node = el("section", { class: "player", "aria-label": "Player" }, this.screen, this.bar);
    if (facts.play.how === "none") this.none(facts.play.reason);
    else if (facts.play.how === "encode") this.encoded("This browser plays no such video, nor what the server would make of it: its stills stand in for it.");
    else if (facts.codec === "hevc" && !document.createElement("video").canPlayType('video/mp4; codecs="hvc1.1.6.L93.B0"')) this.encoded("This browser cannot play HEVC: its stills stand in for it.");
    else this.video(facts.play.url);
    this.tell();
  }

  video(url, segments = null) {
    this.media = el("video", { preload: "auto", playsinline: true, "aria-label": "Video" });
    this.media.addEventListener("play", () => this.playing());
    this.media.addEventListener("pause", () => this.playing());
    this.media.addEventListener("seeked", () => this.tell());
    this.media.addEventListener("click", () => this.toggle());
    this.media.addEventListener("error", () => this.failed());
    // Where the picture cannot be decoded but the sound can, browsers play that alone.
    this.media.addEventListener("loadedmetadata", () => { if (!this.media?.videoWidth) this.failed(); });
    if (segments) this.segments = new Segments(this.media, segments, this.duration, (why) => this.stills(why));
    else this.media.src = url;
    fill(this.screen, this.media);
  }

  // As the server encodes it, a few seconds at a time; else its stills.
  encoded(why) {
    const { segments } = this.facts.play;
    if (this.segments || !segments || !canPlaySegments(segments)) return this.stills(why);
    const at = this.now, on = this.wanted;
    this.media?.removeAttribute("src");
    this.media = null;
    this.video(null, segments);
    this.seek(at, true);
    if (on) this.media.play().catch(() => {});
  }

  async failed() {
    const code = this.media?.error?.code; // none where only the picture is missing
    this.wanted = !this.paused || this.wanted;
    if (this.segments) return this.stills("This browser cannot play the video: its stills stand in for it.");
    let why = "This browser cannot play the video: its stills stand in for it.";
    try { // what the server says of it, where it refuses
      const answer = await fetch(this.facts.play.url, { headers: { Range: "bytes=0-0" } });
      if (!answer.ok) why = (await answer.json()).error.message;
      else if (code === 4 && this.facts.play.how === "direct" && !this.tried) { // another container may do
        this.tried = true;
        this.media.src = `${this.facts.play.original}?container=mp4`;
        this.media.currentTime = this.now / 1e6;
        return;
      }
      else {
        this.encoded(why);
        return;
      }
    } catch { /* the stills say the rest */ }
    this.stills(why);
  }

  none(reason) {
    this.media = null;
    fill(this.screen, el("p", { class: "none" }, reason));
    for (const control of this.bar.querySelectorAll("button, select")) control.disabled = true;
  }

  // One picture after another, at the pace at which they come.
  stills(why) {
    this.segments?.destroy();
    this.media = null;
    this.image = el("img", { alt: "" });
    const note = el("p", { class: "note" }, why);
    fill(this.screen, this.image, note);
    setTimeout(() => note.classList.add("gone"), 6000);
    for (const control of [this.rate, this.soundButton, this.captionButton]) control.disabled = true;
    this.show = later(60, () => { this.image.src = still(this.facts.video_id, this.now, 540); });
    this.show();
  }

  get paused() {
    return this.media ? this.media.paused : !this.timer;
  }

  toggle() {
    if (this.media) {
      if (this.media.paused) this.media.play().catch(() => {});
      else this.media.pause();
    } else if (this.image) {
      if (this.timer) {
        clearInterval(this.timer);
        this.timer = 0;
      } else {
        this.timer = setInterval(() => this.seek(this.now + 5e5, true), 500);
      }
      this.playing();
    }
    if (!this.keepSpan) this.until = null;
  }

  playing() {
    const on = !this.paused;
    fill(this.playButton, icon(on ? "pause" : "play"));
    this.playButton.setAttribute("aria-label", on ? "Pause" : "Play");
    this.playButton.title = on ? "Pause" : "Play";
    if (on && this.media) this.follow();
  }

  follow() {
    cancelAnimationFrame(this.frameRequest);
    const look = () => {
      this.tell();
      if (this.until !== null && this.now >= this.until) {
        this.until = null;
        this.media.pause();
      }
      if (this.media && !this.media.paused) this.frameRequest = requestAnimationFrame(look);
    };
    look();
  }

  tell() {
    if (this.media && !this.media.seeking && this.media.readyState) this.now = Math.round(this.media.currentTime * 1e6);
    const text = `${clock(this.now, 1)} / ${clock(Math.round(this.duration / 1e6) * 1e6)}`;
    if (this.time.textContent !== text) this.time.textContent = text;
    this.ontime(this.now, !this.paused);
  }

  seek(us, keep = false) {
    if (!keep) this.until = null;
    this.now = Math.max(0, Math.min(this.duration - 1, Math.round(us)));
    // Half a microsecond more: a time that is a frame's own must not fall just before it when it becomes a float.
    if (this.media) this.media.currentTime = this.now / 1e6 + 5e-7;
    else if (this.image) {
      this.show();
      if (this.now >= this.duration - 1 && this.timer) this.toggle();
    }
    this.tell();
  }

  // Plays a span and stops at its end.
  span(start, end) {
    this.seek(start);
    this.until = Math.max(end, start + 500_000);
    if (this.paused) {
      this.keepSpan = true;
      this.toggle();
      this.keepSpan = false;
    }
  }

  frame(by) {
    this.media?.pause();
    this.seek(this.now + (by * 1e6) / (this.facts.frame_rate || 25));
  }

  louder(by) {
    if (this.media) this.media.volume = Math.min(1, Math.max(0, this.media.volume + by));
  }

  mute() {
    if (!this.media) return;
    this.media.muted = !this.media.muted;
    fill(this.soundButton, icon(this.media.muted ? "mute" : "sound"));
    this.soundButton.setAttribute("aria-label", this.media.muted ? "Sound on" : "Sound off");
  }

  caption() {
    if (!this.media) return;
    if (!this.track) {
      this.track = el("track", { kind: "subtitles", label: "Events", srclang: "en", src: this.captions });
      this.media.append(this.track);
      this.track.track.mode = "showing";
    } else this.track.track.mode = this.track.track.mode === "showing" ? "hidden" : "showing";
    this.captionButton.setAttribute("aria-pressed", String(this.track.track.mode === "showing"));
  }

  full() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.node.requestFullscreen?.();
  }

  destroy() {
    this.segments?.destroy();
    cancelAnimationFrame(this.frameRequest);
    clearInterval(this.timer);
    if (this.media) {
      this.media.pause();
      this.media.removeAttribute("src");
      this.media.load(); // lets go of the connection
    }
  }
}

