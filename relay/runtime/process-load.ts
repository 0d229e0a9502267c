/**
 * What this process takes of its host, with its share of the CPU between two looks.
 *
 * @module
 */
import process from "node:process";

import { readResources, type Resources } from "./resources.ts";

export interface ProcessLoad extends Pick<Resources, "openFiles" | "openFilesMax" | "memoryBytes"> {
  /** Of one core. */
  readonly cpuRatio: number;
}

export class ProcessMeter {
  #atMs = performance.now();
  #usage = process.cpuUsage();

  look(): ProcessLoad {
    const now = performance.now();
    const usage = process.cpuUsage();
    const usedMs = (usage.user - this.#usage.user + usage.system - this.#usage.system) / 1000;
    const passedMs = now - this.#atMs;
    this.#atMs = now;
    this.#usage = usage;
    const { openFiles, openFilesMax, memoryBytes } = readResources();
    return { cpuRatio: passedMs > 0 ? usedMs / passedMs : 0, memoryBytes, openFiles, openFilesMax };
  }
}
