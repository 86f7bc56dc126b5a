/** Varies a time by up to this share of it, so that processes that were started together do not act at the same moments. */
export function jittered(ms: number, share = 0.25): number {
  return Math.round(ms * (1 - share + 2 * share * Math.random()));
}
