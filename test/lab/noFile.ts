/** In the environment of a configuration: neither the machine's file nor the user's is read. */
export const noFile = { LXSTOW_CONFIG: '/dev/null' };
