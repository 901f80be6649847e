// Elements that show a version of a clip, and the clock that keeps several videos on one frame.

// The URL of a file of the page: beside it, or embedded in it as base64 ("#id").
const objectUrls = new Map();
function urlOf(source) {
  if (!source.startsWith("#")) return source;
  if (!objectUrls.has(source)) {
    const holder = document.getElementById(source.slice(1));
    const bytes = Uint8Array.from(atob(holder.textContent.trim()), (c) => c.charCodeAt(0));
    objectUrls.set(source, URL.createObjectURL(new Blob([bytes], { type: holder.dataset.type })));
  }
  return objectUrls.get(source);
}

// A <video> or <img> in a box of the clip's size. An input is stretched to the whole box; any other
// version keeps its own size in pixels, from the top left corner.
function pictureElement(version, clip) {
  const video = version.kind === "video";
  const element = document.createElement(video ? "video" : "img");
  if (video) {
    Object.assign(element, { muted: true, playsInline: true, preload: "auto", disablePictureInPicture: true });
  } else {
    element.alt = `${version.name} of ${clip.name}`;
    element.draggable = false;
  }
  const stretch = version.role === "input";
  const across = (stretch ? version.coded_width / version.width : version.coded_width / clip.width) * 100;
  const down = (stretch ? version.coded_height / version.height : version.coded_height / clip.height) * 100;
  element.style.width = `${across}%`;
  element.style.height = `${down}%`;
  element.setAttribute("aria-label", `${version.name} of ${clip.name}`);
  element.src = urlOf(version.source);
  return element;
}

// Plays videos together and shows one frame of all of them. Frame i is shown from i / rate on.
class Clock {
  constructor(onChange) {
    this.onChange = onChange;
    this.videos = [];
    this.rate = 25;
    this.frames = 1;
    this.frame = 0;
    this.speed = 1;
    this.playing = false;
    this.turn = 0; // counts calls that end the work of earlier ones
  }

  // Shows these videos from now on, at the frame that is shown.
  async setVideos(videos, rate, frames) {
    const resume = this.playing;
    this.pause();
    Object.assign(this, { videos, rate, frames });
    await this.seek(Math.min(this.frame, frames - 1));
    if (resume) await this.play();
  }

  // Resolves when all videos show the frame. The middle of its time, so that rounding cannot miss it.
  async seek(frame) {
    const turn = ++this.turn;
    this.frame = Math.max(0, Math.min(this.frames - 1, Math.round(frame)));
    this.onChange();
    const time = (this.frame + 0.5) / this.rate;
    const isLatest = () => turn === this.turn;
    await Promise.all(this.videos.map((video) => Clock.seekOne(video, time, isLatest)));
    return isLatest();
  }

  // A seek that is under way ends before the next one begins: one that is interrupted may leave its
  // own frame on the screen. So the frame is set only if no later call has another one by then.
  static async seekOne(video, time, isLatest) {
    const event = (name) => new Promise((resolve) => {
      for (const one of [name, "error"]) video.addEventListener(one, resolve, { once: true });
    });
    while (video.readyState < 1 && !video.error) await event("loadedmetadata");
    while (video.seeking && !video.error) await event("seeked");
    if (!isLatest() || video.error || Math.abs(video.currentTime - time) < 1e-4) return;
    const ended = event("seeked");
    video.currentTime = time;
    await ended;
  }

  async play() {
    if (!this.videos.length || this.playing) return;
    this.playing = true;
    this.onChange();
    if (this.frame >= this.frames - 1) this.frame = 0;
    if (await this.seek(this.frame)) await this.start();
  }

  async start() {
    const turn = this.turn;
    for (const video of this.videos) video.playbackRate = this.speed;
    try {
      await Promise.all(this.videos.map((video) => video.play()));
    } catch (error) { // a pause came before the playing began, or the browser refuses to play
      if (turn === this.turn) this.pause();
      return;
    }
    if (turn === this.turn) requestAnimationFrame(() => this.tick(turn));
  }

  // Follows the first video. Another one that is less than a frame off gets another speed; of two
  // that are further apart, the one in front waits.
  async tick(turn) {
    if (!this.playing || turn !== this.turn) return;
    const [lead, ...others] = this.videos;
    const now = lead.currentTime;
    if (this.videos.some((video) => video.ended) || now * this.rate >= this.frames) {
      this.pauseVideos();
      if (await this.seek(0) && this.playing) await this.start();
      return;
    }
    for (const video of others) {
      const ahead = (video.currentTime - now) * this.rate; // frames
      const front = ahead > 0 ? video : lead;
      const behind = ahead > 0 ? lead : video;
      if (Math.abs(ahead) > 1) front.pause();
      else if (Math.abs(ahead) < 0.5 && front.paused) front.play().catch(() => {});
      if (behind.paused) behind.play().catch(() => {});
      video.playbackRate = this.speed * (1 - Math.max(-0.5, Math.min(0.5, ahead / 4)));
    }
    const frame = Math.min(this.frames - 1, Math.floor(now * this.rate + 1e-3));
    if (frame !== this.frame) {
      this.frame = frame;
      this.onChange();
    }
    requestAnimationFrame(() => this.tick(turn));
  }

  pauseVideos() {
    for (const video of this.videos) video.pause();
  }

  pause() {
    this.turn++;
    this.playing = false;
    this.pauseVideos();
    this.onChange();
  }

  // Stops on one frame of all videos.
  async halt() {
    this.pause();
    await this.seek(this.frame);
  }

  async step(frames) {
    this.pause();
    await this.seek(this.frame + frames);
  }

  setSpeed(speed) {
    this.speed = speed;
    for (const video of this.videos) video.playbackRate = speed;
  }
}
