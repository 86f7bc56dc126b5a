/** Varies a time by up to this share of it, so that what was started together does not march in step. */
export function jittered(ms: number, share = 0.25): number {
  return Math.round(ms * (1 - share + 2 * share * Math.random()));
}
