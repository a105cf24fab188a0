// One question a second: GET /api/state. Everything that moves on the page is drawn from its answers.

import { fetchState } from "./api.js";

const PERIOD_MS = 1000;

export class Poller {
  /**
   * @param {(state: object) => void} onState  called with every fresh answer
   * @param {(failures: number) => void} onFailure  called with the number of failures in a row
   */
  constructor(onState, onFailure) {
    this.jobId = null;
    this.onState = onState;
    this.onFailure = onFailure;
    this.jobs = [];
    this.jobsTag = "";
    this.failures = 0;
    this.question = null;
  }

  start() {
    setInterval(() => document.hidden || this.poll(), PERIOD_MS);
    document.addEventListener("visibilitychange", () => document.hidden || this.poll());
    return this.poll();
  }

  /** Follow another job from now on. An answer that is still under way for the old one is thrown away. */
  watch(jobId) {
    this.jobId = jobId;
    return this.pollNow();
  }

  /** Ask at once, after something was done whose effect should show. */
  pollNow() {
    this.question?.abort.abort();
    this.question = null;
    return this.poll();
  }

  poll() {
    if (this.question) return this.question.answer;
    const question = { abort: new AbortController(), jobId: this.jobId };
    this.question = question;
    question.answer = this.ask(question).finally(() => {
      if (this.question === question) this.question = null;
    });
    return question.answer;
  }

  async ask(question) {
    try {
      const state = await fetchState(question.jobId, this.jobsTag, question.abort.signal);
      if (this.question !== question) return; // overtaken by a newer question
      this.failures = 0;
      if (state.jobs) {
        this.jobs = state.jobs;
        this.jobsTag = state.jobs_tag;
      }
      this.onState({ ...state, jobs: this.jobs });
    } catch (error) {
      if (question.abort.signal.aborted) return;
      this.failures += 1;
      this.onFailure(this.failures);
    }
  }
}
