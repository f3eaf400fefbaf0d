"""The points and weights of paths, written out."""


def rule_of(quadrature, n):
    """The points and weights of a path, as lists: by the textbook's table for Gauss and Legendre."""
    if quadrature == "gauss":
        half = {0: [(0.0, 2)], 1: [(0.5773502691896257, 1)], 2: [(0.0, 8 / 9), (0.7745966692414834, 5 / 9)],
                3: [(0.3399810435848563, 0.6521451548625461), (0.8611363115940526, 0.3478548451374538)]}[n]
        both = sorted({(sign * t, w) for t, w in half for sign in (-1, 1)})
        return [(t + 1) / 2 for t, w in both], [w / 2 for t, w in both]
    if quadrature == "graded":
        edges = [(k / (n + 1)) ** 2 for k in range(n + 2)]
        cells = list(zip(edges, edges[1:]))
        return [0] + [(low + high) / 2 for low, high in cells[1:]], [high - low for low, high in cells]
    ends = 1 / n if quadrature == "riemann" else 1 / (2 * n)
    return [i / n for i in range(n + 1)], [ends if i in (0, n) else 1 / n for i in range(n + 1)]


def layer_rule_of(quadrature, n):
    """The same for a layer's path."""
    return rule_of("gauss", n - 1) if quadrature == "graded" else rule_of(quadrature, n)
