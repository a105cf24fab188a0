// "My videos": every job of this visitor, newest first, with play, download and delete.

import { deleteJob, downloadUrl, posterUrl } from "./api.js";
import { clock, h, icon, setText, sizeText } from "./dom.js";
import { locale, words } from "./strings.js";

export class Videos {
  /**
   * @param {number} keepDays  after which a video is deleted
   * @param {{open: (id: string) => void, deleted: (id: string) => void}} actions
   */
  constructor(host, keepDays, actions) {
    this.actions = actions;
    this.cards = new Map();
    this.count = h("span", { class: "la-muted" });
    this.grid = h("div", { class: "grid", role: "list" });
    this.empty = h("p", { class: "la-muted" }, words.noVideos);
    this.older = h("p", { class: "la-muted" });
    const kept = h("p", { class: "la-muted" }, words.kept(keepDays));
    host.classList.add("la-panel");
    host.setAttribute("role", "region");
    host.setAttribute("aria-label", words.videos);
    host.append(h("header", {}, h("h2", {}, words.videos), this.count), this.empty, this.grid, this.older, kept);
  }

  /** Draw the list. Cards whose job did not change stay untouched, so that focus and questions survive. */
  update(jobs, numJobs, currentId) {
    setText(this.count, jobs.length ? String(numJobs) : "");
    this.empty.hidden = jobs.length > 0;
    setText(this.older, numJobs > jobs.length ? words.moreVideos(numJobs - jobs.length) : "");
    const wanted = new Set(jobs.map((job) => job.id));
    for (const [id, card] of this.cards) {
      if (!wanted.has(id)) {
        card.element.remove();
        this.cards.delete(id);
      }
    }
    jobs.forEach((job, index) => {
      const key = [job.state, job.has_video, job.queue_position, job.size].join();
      let card = this.cards.get(job.id);
      const isAsking = card?.element.querySelector(".question");
      if (!card || (card.key !== key && !isAsking)) {
        const element = this.card(job);
        card?.element.replaceWith(element);
        card = { key, element };
        this.cards.set(job.id, card);
      }
      card.element.classList.toggle("current", job.id === currentId);
      if (this.grid.children[index] !== card.element) this.grid.insertBefore(card.element, this.grid.children[index] ?? null);
    });
  }

  card(job) {
    const created = new Date(job.created_at * 1000);
    const today = created.toDateString() === new Date().toDateString();
    const form = today ? { hour: "2-digit", minute: "2-digit", hourCycle: "h23" } : { month: "short", day: "numeric" };
    const when = new Intl.DateTimeFormat(locale, form).format(created);
    const state = words[job.state];
    const tag = job.state === "finished" ? clock(job.audio_seconds) : job.has_video ? words.partial : state;
    const open = h(
      "button",
      {
        type: "button",
        class: "poster",
        "aria-label": words.openVideo(when, state),
        onclick: () => this.actions.open(job.id),
      },
      h("img", { src: posterUrl(job.id), alt: "", loading: "lazy" }),
      h("em", { class: job.active ? "active" : "" }, tag),
    );
    const element = h(
      "article",
      {
        class: job.active || job.has_video ? "card" : "card no-video",
        role: "listitem",
        dataset: { job: job.id, state: job.state },
      },
      open,
      h(
        "div",
        { class: "meta" },
        h("span", { class: "label" }, h("b", {}, when), job.size === "auto" ? "" : sizeText(job.size)),
        job.has_video &&
          h(
            "a",
            { class: "la-icon-button", href: downloadUrl(job.id), download: true, "aria-label": words.downloadVideo(when), title: words.download },
            icon("download"),
          ),
        this.deleteButton(job, when),
      ),
    );
    return element;
  }

  deleteButton(job, when) {
    const button = h(
      "button",
      { type: "button", class: "la-icon-button delete", "aria-label": words.removeVideo(when), title: words.remove },
      icon("trash"),
    );
    button.addEventListener("click", () => this.ask(job, button));
    return button;
  }

  /** Ask on the card itself before anything is lost. */
  ask(job, button) {
    const card = button.closest(".card");
    if (card.querySelector(".question")) return;
    const close = () => {
      question.remove();
      button.focus();
    };
    const confirm = h("button", { type: "button", class: "la-button danger", onclick: () => this.remove(job, card) }, words.remove);
    const question = h(
      "div",
      { class: "question", role: "alertdialog", "aria-label": words.removeQuestion },
      h("b", {}, words.removeQuestion),
      h("div", {}, confirm, h("button", { type: "button", class: "la-button keep", onclick: close }, words.keep)),
    );
    question.addEventListener("keydown", (event) => event.key === "Escape" && close());
    card.append(question);
    question.querySelector(".keep").focus();
  }

  async remove(job, card) {
    card.classList.add("leaving");
    try {
      await deleteJob(job.id);
    } catch {
      card.classList.remove("leaving");
      card.querySelector(".question b").textContent = words.networkProblem;
      return;
    }
    this.actions.deleted(job.id);
  }
}
