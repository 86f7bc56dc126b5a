/**
 * Some things are read only when Node begins, flags of V8 and variables of the C library: the process becomes one that has them, with the same id, input
 * and output. What the environment has already stays. Where that cannot be done (Windows), it goes on without.
 */
export function beginWith(flags: string[], variables: Record<string, string>): void {
  const { execPath, execArgv, argv, env } = process;
  if (flags.every((flag) => execArgv.includes(flag))) return;
  process.execve?.(execPath, [execPath, ...flags, ...execArgv, ...argv.slice(1)], { ...variables, ...env });
}
