from analysis.strips import strips
