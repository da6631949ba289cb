// A video that the browser cannot decode, a few seconds at a time as the server encodes them: what is about to be shown is
// fetched, what lies far behind is let go. Every piece stands at its own place of the video's timeline.

const AHEAD = 3, KEEP_S = 60;

export const canPlaySegments = ({ codecs }) => "MediaSource" in window && MediaSource.isTypeSupported(typeOf(codecs));
const typeOf = (codecs) => `video/mp4; codecs="${codecs.join(", ")}"`;

export class Segments {
  // media: a <video>; of: { url, length_us, codecs }; failed(message): when no more can be had
  constructor(media, of, durationUs, failed) {
    Object.assign(this, { media, of, failed });
    this.seconds = durationUs / 1e6;
    this.count = Math.ceil(durationUs / of.length_us);
    this.there = new Set();
    this.source = new MediaSource();
    this.url = URL.createObjectURL(this.source);
    this.source.addEventListener("sourceopen", () => this.open(), { once: true });
    this.wish = () => this.pump();
    for (const event of ["timeupdate", "seeking", "waiting", "play"]) media.addEventListener(event, this.wish);
    media.src = this.url;
  }

  open() {
    URL.revokeObjectURL(this.url);
    this.source.duration = this.seconds;
    this.buffer = this.source.addSourceBuffer(typeOf(this.of.codecs));
    this.pump();
  }

  get place() {
    return Math.min(this.count - 1, Math.max(0, Math.floor((this.media.currentTime * 1e6) / this.of.length_us)));
  }

  next() {
    for (let n = this.place; n < Math.min(this.count, this.place + AHEAD); n++) if (!this.there.has(n)) return n;
    return -1;
  }

  async pump() {
    if (!this.buffer || this.ended) return;
    if (this.busy) { // somebody went elsewhere: what is being fetched is not wanted any more
      if (this.fetching !== undefined && (this.fetching < this.place || this.fetching >= this.place + AHEAD)) this.abort?.abort();
      return;
    }
    this.busy = true;
    try {
      for (let n = this.next(); n >= 0 && !this.ended; n = this.next()) {
        await this.append(n);
        await this.forget();
      }
      if (this.there.has(this.count - 1) && this.source.readyState === "open" && !this.ended) this.source.endOfStream();
    } catch (error) {
      if (!this.ended && error.name !== "AbortError") {
        this.ended = true;
        this.failed(error.message);
      }
    } finally {
      this.busy = false;
    }
    if (!this.ended && this.next() >= 0) this.pump();
  }

  async append(n) {
    this.fetching = n;
    this.abort = new AbortController();
    const answer = await fetch(`${this.of.url}?n=${n}`, { signal: this.abort.signal });
    if (answer.status === 503) { // busy: others watch too
      await new Promise((done) => setTimeout(done, 1500));
      return;
    }
    if (!answer.ok) throw new Error((await answer.json()).error?.message ?? `The server said ${answer.status}.`);
    const bytes = await answer.arrayBuffer();
    this.fetching = undefined;
    if (this.ended) return;
    await this.change(() => {
      this.buffer.timestampOffset = (n * this.of.length_us) / 1e6;
      this.buffer.appendBuffer(bytes);
    });
    this.there.add(n);
  }

  async forget() {
    const far = [...this.there].filter((n) => Math.abs(n - this.place) * this.of.length_us > KEEP_S * 1e6);
    for (const n of far) {
      this.there.delete(n);
      const start = (n * this.of.length_us) / 1e6;
      await this.change(() => this.buffer.remove(start, Math.min(this.seconds, start + this.of.length_us / 1e6)));
    }
  }

  change(how) {
    return new Promise((done, failed) => {
      this.buffer.addEventListener("updateend", done, { once: true });
      this.buffer.addEventListener("error", () => failed(new Error("This browser cannot play what the server made of the video.")), { once: true });
      how();
    });
  }

  destroy() {
    this.ended = true;
    this.abort?.abort();
    for (const event of ["timeupdate", "seeking", "waiting", "play"]) this.media.removeEventListener(event, this.wish);
  }
}
